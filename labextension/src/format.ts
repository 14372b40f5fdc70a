const GIB = 2 ** 30;
const MIB = 2 ** 20;

/** The language of the page, as Lab has set it. */
export function language(): string {
  return document.documentElement.lang || 'en';
}

/** A number as it is written in the language of the page, with a decimal below 100. */
export function number(value: number): string {
  return decimals(value, value < 100 ? 1 : 0);
}

/** A number with so many decimals at most, and `least` of them at least. */
export function decimals(value: number, most: number, least = 0): string {
  const form = { maximumFractionDigits: most, minimumFractionDigits: least, useGrouping: false };
  try {
    return value.toLocaleString(language(), form);
  } catch {
    return value.toLocaleString('en', form); // a language that the browser does not know
  }
}

/** Bytes in GiB. */
export function gibibytes(bytes: number): string {
  return `${number(bytes / GIB)} GiB`;
}

/** Bytes in GiB, or in MiB where they are few. */
export function amount(bytes: number): string {
  return bytes > 0 && bytes < GIB ? `${number(bytes / MIB)} MiB` : gibibytes(bytes);
}

/** A part of a whole in percent. */
export function percent(value: number): string {
  return `${Math.round(value * 100)} %`;
}

/** The hour and minute of a moment, as it is written in the language of the page. */
export function clock(at: string | number): string {
  const form = { hour: 'numeric', minute: '2-digit' } as const;
  try {
    return new Date(at).toLocaleTimeString(language(), form);
  } catch {
    return new Date(at).toLocaleTimeString('en', form);
  }
}
