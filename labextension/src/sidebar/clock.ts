import { useEffect, useState } from 'react';
import { serverNow } from '../clock';

/** The time at the server in milliseconds, which goes on by steps of so many milliseconds; 0: it stands. */
export function useClock(step: number): number {
  const [now, setNow] = useState(serverNow);
  useEffect(() => {
    if (step === 0) {
      return;
    }
    setNow(serverNow());
    const timer = window.setInterval(() => {
      setNow(serverNow());
    }, step);
    return () => {
      window.clearInterval(timer);
    };
  }, [step]);
  return now;
}
