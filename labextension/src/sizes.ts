import type { IAllocation, IOffer } from './tokens';

/** How much of a GPU a size is: a number that only orders sizes. */
export function amount({ size, memory_bytes: memory }: IOffer): number {
  const [, count = '1', one = size] = /^(\d+)x(.+)$/.exec(size) ?? [];
  const [, part, whole] = /^(\d+)\/(\d+)$/.exec(one) ?? [];
  const each = memory ? memory[1] : part && whole ? Number(part) / Number(whole) : Number(one) || 0;
  return Number(count) * each;
}

/** Whether a kernel waits for a share, whether or not its place is known. */
export function waits(row: IAllocation): boolean {
  return row.queue !== null || row.state === 'queued';
}

/** Whether a start waits or has failed: then there are other ways to start. */
export function isStuck(row: IAllocation): boolean {
  return waits(row) || row.state === 'failed';
}

/** The largest offer with a GPU that can be had at once; null where there is none. */
export function largestFree(offers: readonly IOffer[]): IOffer | null {
  const free = offers.filter(each => each.available && each.size !== '0');
  return free.reduce<IOffer | null>(
    (best, each) => (best === null || amount(each) > amount(best) ? each : best),
    null
  );
}
