import type { IAllocation, IGpu, IShare } from '../tokens';

const GIB = 2 ** 30;

/** Bytes of a share over all its devices. */
export function totalBytes(share: IShare): number {
  return share.memory_bytes * share.devices.length;
}

/** Whether a kernel runs without a GPU because it was started so. */
export function isWithoutGpu(row: IAllocation): boolean {
  return row.size === '0';
}

/** Bytes that a kernel holds; 0 where it holds none. */
export function heldBytes(row: IAllocation): number {
  return row.share === null ? 0 : totalBytes(row.share);
}

/**
 * Bytes that a size comes to over all its devices, where that is the same whichever GPU is picked;
 * null where it is not known.
 */
export function bytesOf(size: string, gpus: readonly IGpu[]): number | null {
  const [, count = '1', one = size] = /^(\d+)x(.+)$/.exec(size) ?? [];
  const [, amount, unit] = /^([\d.]+)(GiB|MiB)$/.exec(one) ?? [];
  if (amount !== undefined) {
    return Number(count) * Number(amount) * (unit === 'GiB' ? GIB : GIB / 1024);
  }
  const fraction = partOf(one);
  const memories = new Set(gpus.filter(gpu => gpu.profile === null).map(gpu => gpu.memory_bytes));
  const [memory] = memories;
  if (fraction === null || memories.size !== 1 || !memory) {
    return null;
  }
  return Number(count) * Math.floor(fraction * memory);
}

/** A fraction as a number: `1/4`, `0.25`, `1`; null where it is something else. */
export function partOf(text: string): number | null {
  const [, above, below = '1'] = /^([\d.]+)(?:\/(\d+))?$/.exec(text) ?? [];
  const value = Number(above) / Number(below);
  return Number.isFinite(value) ? value : null;
}

/** A part of a whole as it is drawn: from 0 to 1, also where the whole is nought. */
export function clamped(value: number): number {
  return Number.isFinite(value) ? Math.min(1, Math.max(0, value)) : 0;
}
