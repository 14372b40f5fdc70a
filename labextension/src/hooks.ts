import type { ISignal } from '@lumino/signaling';
import { useEffect, useState } from 'react';

/** Render anew when a signal was emitted, at most once for each picture that is shown. */
export function useChanges(...signals: ISignal<unknown, unknown>[]): void {
  const [, setCount] = useState(0);
  useEffect(() => {
    let frame = 0;
    const changed = (): void => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        setCount(count => count + 1);
      });
    };
    signals.forEach(signal => signal.connect(changed));
    return () => {
      cancelAnimationFrame(frame);
      signals.forEach(signal => signal.disconnect(changed));
    };
  }, signals);
}

/** The time in milliseconds; it goes on by seconds while that is wanted. */
export function useNow(ticking: boolean): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!ticking) {
      return;
    }
    setNow(Date.now());
    const timer = window.setInterval(() => setNow(Date.now()), 1000);
    return () => window.clearInterval(timer);
  }, [ticking]);
  return now;
}
