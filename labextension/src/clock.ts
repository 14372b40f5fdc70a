/** Milliseconds of difference that are put down to how the answer travelled. */
const UNSURE = 2000;

let ahead = 0;

/**
 * Take note of what time it is at the server.
 *
 * @param date - The header `Date` of an answer that has just come; null where there is none.
 * @param now - What time it is here, in milliseconds.
 */
export function noteServerTime(date: string | null, now = Date.now()): void {
  const there = date === null ? NaN : Date.parse(date);
  if (!Number.isNaN(there)) {
    const difference = there - now;
    ahead = Math.abs(difference) > UNSURE ? difference : 0;
  }
}

/**
 * The time at the server in milliseconds. Moments that the server names are counted by its own
 * clock: the one of a laptop may be minutes off.
 */
export function serverNow(): number {
  return Date.now() + ahead;
}
