/**
 * Root directory of this package, as a file URL that ends with `/`: assets are read from there, whether this module is
 * source, compiled, or bundled into `anka`, which is as deep.
 */
export const PACKAGE_ROOT = new URL('../../', import.meta.url);
