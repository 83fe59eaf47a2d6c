/** Sizes such as 512M, 4G, 80GiB, 1.5T, in powers of 1024. */
const UNITS = ['', 'K', 'M', 'G', 'T'] as const;

/** Bytes; null when malformed. A bare number is bytes. */
export function parseSize(text: string): number | null {
  const m = /^(\d{1,12}(?:\.\d{1,3})?)\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim());
  if (!m) return null;
  const power = UNITS.indexOf((m[2] as string).toUpperCase() as (typeof UNITS)[number]);
  return Math.round(Number(m[1]) * 1024 ** power);
}

/** The shortest exact form: 4G, 1536M. */
export function formatSize(bytes: number): string {
  for (let power = UNITS.length - 1; power > 0; power--) {
    if (bytes >= 1024 ** power && bytes % 1024 ** power === 0) return `${bytes / 1024 ** power}${UNITS[power]}`;
  }
  return `${bytes}`;
}
