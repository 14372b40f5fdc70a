import { useEffect, useState } from 'react';

/** The time in milliseconds, which goes on by steps of so many milliseconds; 0: it stands. */
export function useClock(step: number): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (step === 0) {
      return;
    }
    setNow(Date.now());
    const timer = window.setInterval(() => {
      setNow(Date.now());
    }, step);
    return () => {
      window.clearInterval(timer);
    };
  }, [step]);
  return now;
}
