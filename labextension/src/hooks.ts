import type { ISignal } from '@lumino/signaling';
import { useEffect, useState } from 'react';
import { serverNow } from './clock';

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

/** The time at the server in milliseconds; it goes on by seconds while that is wanted. */
export function useNow(ticking: boolean): number {
  const [now, setNow] = useState(serverNow);
  useEffect(() => {
    if (!ticking) {
      return;
    }
    setNow(serverNow());
    const timer = window.setInterval(() => setNow(serverNow()), 1000);
    return () => window.clearInterval(timer);
  }, [ticking]);
  return now;
}
