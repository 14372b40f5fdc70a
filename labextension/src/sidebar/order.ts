import type { IAllocation, State } from '../tokens';
import { heldBytes } from './amounts';

export type Order = 'started' | 'name' | 'state' | 'memory';

/** What needs somebody first, then what holds something. */
const URGENCY: Readonly<Record<State, number>> = {
  failed: 0,
  queued: 2,
  waking: 3,
  starting: 4,
  active: 5,
  idle: 6,
  releasing: 7,
  released: 8,
  ended: 9
};

/** Rows as they are wanted: those that match, in an order that keeps ties as they came. */
export function arranged(
  rows: readonly IAllocation[],
  order: Order,
  query: string,
  text: (row: IAllocation) => string
): IAllocation[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found = rows.filter(row => {
    const where = text(row).toLowerCase();
    return words.every(word => where.includes(word));
  });
  switch (order) {
    case 'started':
      return found;
    case 'name':
      return found.sort((one, other) =>
        text(one).localeCompare(text(other), undefined, { numeric: true })
      );
    case 'state':
      return found.sort((one, other) => urgency(one) - urgency(other));
    case 'memory':
      return found.sort((one, other) => heldBytes(other) - heldBytes(one));
  }
}

function urgency(row: IAllocation): number {
  return row.next?.action === 'release' && row.keep_until === null ? 1 : URGENCY[row.state];
}

/** Bytes that all of them hold. */
export function sumBytes(rows: readonly IAllocation[]): number {
  return rows.reduce((sum, row) => sum + heldBytes(row), 0);
}

/** A name in two parts: only the first is cut where there is no room, as many begin alike. */
export function parted(name: string): [head: string, tail: string] {
  const letters = Array.from(name);
  if (letters.length <= 12) {
    return [name, ''];
  }
  // What tells them apart is most often the last word.
  const word = /[-_ .][^-_ .]{1,7}$/u.exec(name)?.[0];
  const tail = word ?? letters.slice(-5).join('');
  return [name.slice(0, name.length - tail.length), tail];
}
