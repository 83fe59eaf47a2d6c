/** Root directory of this package, as a file URL that ends with `/`: assets are read from there, source or compiled. */
export const PACKAGE_ROOT = new URL('../../', import.meta.url);
