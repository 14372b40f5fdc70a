import type { IHistory, IReading } from '../tokens';

const MINUTE = 60 * 1000;
/** Minutes that a picture may show: the first that has all of it, an hour at most. */
const WIDTHS = [5, 10, 20, 30, 60];

/** A value at a moment of the server's clock; null is a gap. */
export interface IPoint {
  readonly at: number;
  readonly value: number | null;
}

/** A time in which the share was released; `to` is null while it is. */
export interface IGap {
  readonly from: number;
  readonly to: number | null;
}

/** What is drawn of a kernel's last hour. */
export interface ITimeline {
  readonly begin: number;
  readonly end: number;
  readonly minutes: number;
  readonly gaps: readonly IGap[];
  /** Bytes over all devices. */
  readonly memory: readonly IPoint[];
  /** From 0 to 1. */
  readonly use: readonly IPoint[];
  /** Bytes at the upper edge. */
  readonly top: number;
}

/**
 * Join what the server has kept with what this page has read since.
 *
 * @param granted - Bytes of the share that is held now; 0 where none is.
 */
export function timeline(
  past: IHistory | null,
  live: readonly IReading[],
  granted: number,
  now: number
): ITimeline {
  const kept = past === null ? [] : keptReadings(past);
  const last = kept[kept.length - 1]?.at ?? -Infinity;
  const readings = [...kept, ...live.filter(each => each.at > last)];
  const spans = past?.spans ?? [];
  const gaps = past === null ? [] : gapsOf(past, granted > 0);
  const first = Math.min(
    readings.find(each => each.used !== null || each.utilization !== null)?.at ?? now,
    ...spans.slice(0, 1).map(span => Date.parse(span.begin))
  );
  const minutes = WIDTHS.find(each => now - first <= each * MINUTE) ?? 60;
  const begin = now - minutes * MINUTE;
  const seen = readings.filter(each => each.at >= begin && each.at <= now);
  const points = (value: (each: IReading) => number | null): IPoint[] =>
    seen.map(each => ({ at: each.at, value: within(gaps, each.at) ? null : value(each) }));
  return {
    begin,
    end: now,
    minutes,
    gaps: gaps.filter(gap => (gap.to ?? now) > begin),
    memory: points(each => each.used),
    use: points(each => each.utilization),
    top: Math.max(granted, ...spans.map(span => span.memory_bytes))
  };
}

/** Each sample at the middle of its interval, or at what was now where that is still to come. */
function keptReadings({ now, samples }: IHistory): IReading[] {
  const { begin, interval, used_bytes, utilization } = samples;
  if (begin === null) {
    return [];
  }
  return used_bytes.map((used, index) => ({
    at: Math.min(Date.parse(begin) + (index + 0.5) * interval * 1000, Date.parse(now)),
    used,
    utilization: utilization[index] ?? null
  }));
}

function gapsOf({ now, spans }: IHistory, held: boolean): IGap[] {
  const gaps: IGap[] = [];
  spans.forEach(({ end, ended_by }, index) => {
    if (end !== null && ended_by === 'release') {
      const next = spans[index + 1];
      // What the page knows already is newer: the share is back.
      const back = next === undefined ? (held ? now : null) : next.begin;
      gaps.push({ from: Date.parse(end), to: back === null ? null : Date.parse(back) });
    }
  });
  return gaps;
}

function within(gaps: readonly IGap[], at: number): boolean {
  return gaps.some(gap => at >= gap.from && (gap.to === null || at < gap.to));
}

/** The point that is nearest to a moment among those with a value. */
export function nearest(points: readonly IPoint[], at: number): IPoint | null {
  let found: IPoint | null = null;
  for (const point of points) {
    if (point.value !== null && (!found || Math.abs(point.at - at) < Math.abs(found.at - at))) {
      found = point;
    }
  }
  return found;
}
