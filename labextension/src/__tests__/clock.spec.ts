import { noteServerTime, serverNow } from '../clock';

describe('the time at the server', () => {
  const here = Date.parse('2026-03-01T12:00:00Z');
  beforeEach(() => {
    jest.useFakeTimers({ now: here });
  });
  afterEach(() => {
    jest.useRealTimers();
  });

  it('counts where this clock is off', () => {
    noteServerTime('Sun, 01 Mar 2026 12:05:00 GMT');
    expect(serverNow()).toBe(here + 5 * 60 * 1000);
    noteServerTime(null);
    expect(serverNow()).toBe(here + 5 * 60 * 1000);
    noteServerTime('Sun, 01 Mar 2026 12:00:00 GMT');
    expect(serverNow()).toBe(here);
  });

  it('does not jump with how long an answer takes', () => {
    noteServerTime('Sun, 01 Mar 2026 11:59:58 GMT');
    expect(serverNow()).toBe(here);
  });
});
