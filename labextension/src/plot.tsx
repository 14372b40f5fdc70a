import * as React from 'react';

const WIDTH = 120;
const HEIGHT = 24;
/** Milliseconds that are shown. */
const SPAN = 5 * 60 * 1000;

export interface IPlotProps {
  /** Moments in milliseconds and values from 0 to 1, the oldest first; null is a gap. */
  points: readonly (readonly [at: number, value: number | null])[];
  now: number;
  /** What is shown, for those who do not see it. */
  label: string;
}

/** A small line of the last minutes. */
export function Plot({ points, now, label }: IPlotProps): React.JSX.Element {
  const lines: string[][] = [[]];
  for (const [at, value] of points) {
    if (value === null) {
      lines.push([]);
    } else if (at > now - SPAN) {
      const x = WIDTH * (1 - (now - at) / SPAN);
      const y = HEIGHT - 1 - (HEIGHT - 2) * Math.min(1, value);
      lines[lines.length - 1]?.push(`${x.toFixed(1)},${y.toFixed(1)}`);
    }
  }
  return (
    <svg
      className="jp-GpuShare-plot"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={label}
    >
      {lines.map((line, index) => (
        <polyline key={index} points={line.join(' ')} />
      ))}
    </svg>
  );
}
