import type { IAllocation, IGpu } from '../tokens';

/** A part of a GPU: a kernel of mine, all that is not mine, or what is free. */
export interface ISegment {
  readonly kind: 'mine' | 'others' | 'free';
  readonly row: IAllocation | null;
  readonly bytes: number;
}

/** One GPU (or MIG instance) with its segments, which make up its whole memory. */
export interface IRoom {
  readonly gpu: IGpu;
  /** Number of the GPU on its node, from 0; null where the node has one. */
  readonly index: number | null;
  readonly segments: readonly ISegment[];
}

export interface IRooms {
  readonly rooms: readonly IRoom[];
  /** Shares of mine lie on GPUs that are not told apart: what is not free is not all of others. */
  readonly unplaced: boolean;
  /** The most that one GPU has free, in bytes. */
  readonly largest: number;
}

/** Who holds what of each GPU. Others are a sum. */
export function roomsOf(gpus: readonly IGpu[], rows: readonly IAllocation[]): IRooms {
  const known = new Set(gpus.map(gpu => gpu.uuid));
  const counts = new Map<string, number>();
  for (const { node } of gpus) {
    counts.set(node, (counts.get(node) ?? 0) + 1);
  }
  const places = new Map<string, number>();
  const rooms = gpus.map(gpu => {
    const index = places.get(gpu.node) ?? 0;
    places.set(gpu.node, index + 1);
    return {
      gpu,
      index: (counts.get(gpu.node) ?? 0) > 1 ? index : null,
      segments: segmentsOf(gpu, rows)
    };
  });
  return {
    rooms,
    unplaced: rows.some(row => row.share?.devices.some(each => !known.has(each.uuid)) ?? false),
    largest: Math.max(0, ...gpus.map(gpu => gpu.free_bytes))
  };
}

function segmentsOf(gpu: IGpu, rows: readonly IAllocation[]): ISegment[] {
  const mine: ISegment[] = [];
  let left = gpu.memory_bytes;
  for (const row of rows) {
    const devices = row.share?.devices.filter(each => each.uuid === gpu.uuid) ?? [];
    const bytes = Math.min(left, devices.length * (row.share?.memory_bytes ?? 0));
    if (bytes > 0) {
      mine.push({ kind: 'mine', row, bytes });
      left -= bytes;
    }
  }
  // Shares and GPUs are told at different moments; what is known to be mine is not free.
  const free = Math.min(left, gpu.free_bytes);
  const others = left - free;
  return [
    ...mine,
    ...(others > 0 ? [{ kind: 'others', row: null, bytes: others } as const] : []),
    ...(free > 0 ? [{ kind: 'free', row: null, bytes: free } as const] : [])
  ];
}
