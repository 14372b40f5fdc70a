/** Calls a person who looks elsewhere: a desktop notification, and a mark in the tab's title. */
export class Attention {
  /** Whether a desktop notification is wanted. */
  desktop = false;
  /** Whether a mark is wanted. */
  title = false;

  constructor() {
    document.addEventListener('visibilitychange', this._seen);
  }

  dispose(): void {
    document.removeEventListener('visibilitychange', this._seen);
    this._seen();
  }

  /** Ask the browser for leave to show desktop notifications, where that was not asked before. */
  async askLeave(): Promise<void> {
    if (this.desktop && 'Notification' in window && Notification.permission === 'default') {
      await Notification.requestPermission();
    }
  }

  /**
   * Call, unless the page is seen.
   *
   * @param about - Of two calls about the same the later one takes the place of the earlier.
   */
  call(text: string, about: string): void {
    if (!document.hidden) {
      return;
    }
    if (this.title && !document.title.startsWith(MARK)) {
      document.title = `${MARK}${document.title}`;
    }
    if (this.desktop && 'Notification' in window && Notification.permission === 'granted') {
      const shown = new Notification(text, { tag: `jupyter-gpu-share:${about}` });
      shown.onclick = () => {
        window.focus();
        shown.close();
      };
    }
  }

  private readonly _seen = (): void => {
    if (document.title.startsWith(MARK)) {
      document.title = document.title.slice(MARK.length);
    }
  };
}

const MARK = '● ';
