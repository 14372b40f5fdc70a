import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import { gibibytes } from '../words';
import { clamped } from './amounts';
import { nearest, type IPoint, type ITimeline } from './timeline';
import type { SidebarWords } from './words';

const WIDTH = 600;
const HEIGHT = 60;

interface IChartsProps {
  line: ITimeline;
  /** Bytes and use as they are now; null where not known. */
  used: number | null;
  use: number | null;
  /** Bytes that are held now; 0 where nothing is. */
  granted: number;
  words: SidebarWords;
  trans: TranslationBundle;
}

/** Memory and use over the last hour, with one axis of time and one pointer for both. */
export function Charts(props: IChartsProps): React.JSX.Element {
  const { line, used, use, granted, words, trans } = props;
  const [at, setAt] = React.useState<number | null>(null);
  const unknown = trans.__('not known');
  const memoryNow = granted === 0 ? '–' : used === null ? unknown : words.of(used, granted);
  const useNow = granted === 0 ? '–' : use === null ? unknown : words.percent(use);
  // A dash says nothing to those who hear it.
  const heard = (value: string): string => (granted === 0 ? trans.__('none') : value);
  const gaps = line.gaps.map(gap =>
    gap.to === null
      ? trans.__('Given back at %1.', words.clock(gap.from))
      : trans.__('Given back at %1, here again at %2.', words.clock(gap.from), words.clock(gap.to))
  );
  const told = (most: string): string =>
    [trans._n('In the last minute', 'In the last %1 minutes', line.minutes), most].join(': ');
  const follow = (event: React.PointerEvent): void => {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    const part = clamped((event.clientX - left) / width);
    setAt(line.begin + part * (line.end - line.begin));
  };
  const leave = (): void => {
    setAt(null);
  };
  const shared = { line, at, words, follow, leave };
  return (
    <div className="jp-GpuShare-charts">
      <Head label={trans.__('Memory')} value={memoryNow} />
      <div
        className="jp-GpuShare-bar"
        hidden={granted === 0}
        role="meter"
        aria-label={trans.__('Memory in use')}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.round(100 * clamped((used ?? 0) / granted))}
        aria-valuetext={memoryNow}
      >
        <span style={{ width: `${100 * clamped((used ?? 0) / granted)}%` }} />
      </div>
      <Chart
        {...shared}
        label={[
          trans.__('Memory, now %1.', heard(memoryNow)),
          told(trans.__('at most %1.', gibibytes(most(line.memory)))),
          ...gaps
        ].join(' ')}
        points={line.memory}
        top={line.top}
        scale={gibibytes(line.top)}
        format={gibibytes}
      />
      <Head label={trans.__('GPU use')} value={useNow} />
      <Chart
        {...shared}
        label={[
          trans.__('GPU use, now %1.', heard(useNow)),
          told(trans.__('at most %1.', words.percent(most(line.use))))
        ].join(' ')}
        points={line.use}
        top={1}
        scale="100 %"
        format={value => words.percent(value)}
      />
      <Axis line={line} trans={trans} words={words} />
    </div>
  );
}

function Head({ label, value }: { label: string; value: string }): React.JSX.Element {
  return (
    <div className="jp-GpuShare-pair">
      <span>{label}</span>
      <span className="jp-GpuShare-value">{value}</span>
    </div>
  );
}

interface IChartProps {
  line: ITimeline;
  points: readonly IPoint[];
  /** The value at the upper edge. */
  top: number;
  scale: string;
  /** What is shown, for those who do not see it. */
  label: string;
  format: (value: number) => string;
  words: SidebarWords;
  /** Where the pointer is; null elsewhere. */
  at: number | null;
  follow: (event: React.PointerEvent) => void;
  leave: () => void;
}

function Chart(props: IChartProps): React.JSX.Element {
  const { line, points, top, scale, label, format, words, at, follow, leave } = props;
  const x = (moment: number): number =>
    WIDTH * clamped((moment - line.begin) / (line.end - line.begin));
  const y = (value: number): number => HEIGHT * (1 - clamped(value / top));
  const found = at === null ? null : nearest(points, at);
  const close =
    found !== null && at !== null && Math.abs(found.at - at) < (line.end - line.begin) / 12;
  const runs = runsOf(points);
  return (
    <div className="jp-GpuShare-plot" onPointerMove={follow} onPointerLeave={leave}>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={label}
      >
        {line.gaps.map(gap => {
          const from = x(gap.from);
          const to = x(gap.to ?? line.end);
          return (
            <React.Fragment key={gap.from}>
              <rect className="jp-mod-gap" x={from} y={0} width={to - from} height={HEIGHT} />
              {gap.from > line.begin && (
                <line className="jp-mod-mark" x1={from} x2={from} y1={0} y2={HEIGHT} />
              )}
              {gap.to !== null && (
                <line className="jp-mod-mark" x1={to} x2={to} y1={0} y2={HEIGHT} />
              )}
            </React.Fragment>
          );
        })}
        {runs.map(run => {
          const path = run.map(point => `${x(point.at).toFixed(1)} ${y(point.value).toFixed(1)}`);
          const [first, last] = [run[0], run[run.length - 1]];
          return (
            first &&
            last && (
              <React.Fragment key={first.at}>
                <path
                  className="jp-mod-area"
                  d={`M${x(first.at).toFixed(1)} ${HEIGHT}L${path.join('L')}L${x(last.at).toFixed(1)} ${HEIGHT}Z`}
                />
                <path
                  className="jp-mod-line"
                  d={`M${path.join('L')}${run.length === 1 ? 'h2' : ''}`}
                />
              </React.Fragment>
            )
          );
        })}
        {close && (
          <line className="jp-mod-pointer" x1={x(found.at)} x2={x(found.at)} y1={0} y2={HEIGHT} />
        )}
      </svg>
      <span className="jp-GpuShare-scale" aria-hidden="true">
        {scale}
      </span>
      {close && found.value !== null && (
        <span
          className="jp-GpuShare-tip"
          aria-hidden="true"
          style={
            x(found.at) < WIDTH / 2
              ? { left: `${(100 * x(found.at)) / WIDTH}%` }
              : { right: `${100 - (100 * x(found.at)) / WIDTH}%` }
          }
        >
          {`${format(found.value)} · ${words.clock(found.at)}`}
        </span>
      )}
    </div>
  );
}

/** Parts of a line between its gaps. */
function runsOf(points: readonly IPoint[]): { at: number; value: number }[][] {
  const runs: { at: number; value: number }[][] = [[]];
  for (const { at, value } of points) {
    if (value === null) {
      runs.push([]);
    } else {
      runs[runs.length - 1]?.push({ at, value });
    }
  }
  return runs.filter(run => run.length > 0);
}

function most(points: readonly IPoint[]): number {
  return Math.max(0, ...points.map(point => point.value ?? 0));
}

/** When the picture begins and ends, and where the share was released. */
function Axis({
  line,
  trans,
  words
}: {
  line: ITimeline;
  trans: TranslationBundle;
  words: SidebarWords;
}): React.JSX.Element {
  const length = line.end - line.begin;
  const part = (moment: number): number =>
    (100 * (Math.max(moment, line.begin) - line.begin)) / length;
  return (
    <div className="jp-GpuShare-axis" aria-hidden="true">
      <span>{trans.__('%1 ago', words.span(line.minutes * 60 * 1000))}</span>
      {line.gaps
        .map(gap => ({ gap, from: part(gap.from), to: part(gap.to ?? line.end) }))
        // A word needs room, and the ends have words of their own.
        .filter(({ from, to }) => to - from > 22 && from + to > 50 && from + to < 160)
        .map(({ gap, from, to }) => (
          <span key={gap.from} className="jp-mod-gap" style={{ left: `${(from + to) / 2}%` }}>
            {trans.__('given back')}
          </span>
        ))}
      <span>{trans.__('now')}</span>
    </div>
  );
}
