import type { TranslationBundle } from '@jupyterlab/translation';

const MINUTE = 60 * 1000;
const HOUR = 60 * MINUTE;

/** A length of time, short: `50 s`, `9 min`, `1 h 5 min`. */
export function span(milliseconds: number, trans: TranslationBundle): string {
  if (milliseconds < MINUTE) {
    return trans.__('%1 s', Math.max(0, Math.floor(milliseconds / 1000)));
  }
  if (milliseconds < HOUR) {
    return trans.__('%1 min', Math.floor(milliseconds / MINUTE));
  }
  const hours = Math.floor(milliseconds / HOUR);
  const minutes = Math.floor((milliseconds % HOUR) / MINUTE);
  return minutes === 0 ? trans.__('%1 h', hours) : trans.__('%1 h %2 min', hours, minutes);
}
