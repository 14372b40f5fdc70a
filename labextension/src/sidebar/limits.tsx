import * as React from 'react';
import type { ILimit } from '../tokens';
import { clamped } from './amounts';
import { useClock } from './clock';
import type { IPanelProps } from './props';
import { Section } from './section';

/** What the user may have, and has of it, before anything is refused. */
export function Limits({ shares, trans, words }: IPanelProps): React.JSX.Element | null {
  const limits = shares.status?.limits ?? [];
  const now = useClock(limits.some(each => each.free_at !== null) ? 10_000 : 0);
  if (limits.length === 0) {
    return null;
  }
  const title = trans.__('My limits');
  return (
    <Section title={title}>
      <ul className="jp-GpuShare-limits" role="list" aria-label={title}>
        {limits.map(limit => {
          const whose = words.whoseLimit(limit);
          const again = words.limitFree(limit, now);
          return (
            <li key={keyOf(limit)} className={isFull(limit) ? 'jp-mod-full' : undefined}>
              <div className="jp-GpuShare-pair jp-mod-wraps">
                <span>{words.limit(limit)}</span>
                {whose && <bdi className="jp-GpuShare-cut jp-GpuShare-muted">{whose}</bdi>}
              </div>
              <div className="jp-GpuShare-bar" aria-hidden="true">
                <span style={{ width: `${100 * partOf(limit)}%` }} />
              </div>
              {again && <p className="jp-GpuShare-muted">{again}</p>}
            </li>
          );
        })}
      </ul>
    </Section>
  );
}

function keyOf({ resource, scope, group, window_days: days }: ILimit): string {
  return JSON.stringify([resource, scope, group, days]);
}

/** Whether nothing more of it can be had. */
export function isFull({ held, limit }: ILimit): boolean {
  return held >= limit;
}

/** How much of it is taken, as it is drawn: all of a limit of nothing. */
export function partOf(limit: ILimit): number {
  return isFull(limit) ? 1 : clamped(limit.held / limit.limit);
}
