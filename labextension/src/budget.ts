/** How many requests one page makes in a minute at most, those by a click not counted. */
const REQUESTS = 12;
const MINUTE = 60 * 1000;

/** Says when the next request may be made, so that a hurry now is paid for later. */
export class Budget {
  /** Milliseconds until one more is within the limit. */
  delay(now: number): number {
    const recent = this._made.filter(at => at > now - MINUTE);
    const oldest = recent.length < REQUESTS ? undefined : recent[recent.length - REQUESTS];
    return oldest === undefined ? 0 : oldest + MINUTE - now;
  }

  /** One is made now. */
  spend(now: number): void {
    // A clock that was set back has no requests to come.
    this._made = [...this._made.filter(at => at > now - MINUTE && at <= now), now];
  }

  private _made: number[] = [];
}
