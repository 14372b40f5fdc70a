import type { IDisposable } from '@lumino/disposable';

const CONTROL = 'button:not([tabindex="-1"]):not(:disabled)';

/**
 * Keeps the focus in a panel whose controls come and go. Where the one that has it goes, the first
 * one that is left near it gets it, or that comes there; until then the panel itself has it.
 */
export class FocusKeeper implements IDisposable {
  /** `panel` can have the focus itself. */
  constructor(private readonly _panel: HTMLElement) {
    _panel.addEventListener('focusin', this._note);
    document.addEventListener('pointerdown', this._leave, true);
    this._changes.observe(_panel, { childList: true, subtree: true });
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    this._isDisposed = true;
    this._panel.removeEventListener('focusin', this._note);
    document.removeEventListener('pointerdown', this._leave, true);
    this._changes.disconnect();
  }

  private _look(): void {
    const [last, ...around] = this._path;
    if (last === undefined || last.isConnected) {
      return;
    }
    const { activeElement } = document;
    if (activeElement !== document.body && activeElement !== this._panel) {
      this._path = []; // the user has gone on
      return;
    }
    const near = around.find(place => place.isConnected);
    (near?.querySelector<HTMLElement>(CONTROL) ?? this._panel).focus({ preventScroll: true });
  }

  private readonly _note = (event: FocusEvent): void => {
    if (event.target === this._panel) {
      return; // that is where the focus waits
    }
    this._path = [];
    for (let place = event.target; place instanceof Element; place = place.parentElement) {
      this._path.push(place);
      if (place === this._panel) {
        return;
      }
    }
  };

  /** A click elsewhere takes the focus away for good. */
  private readonly _leave = (event: Event): void => {
    if (!(event.target instanceof Node && this._panel.contains(event.target))) {
      this._path = [];
    }
  };

  private readonly _changes = new MutationObserver(() => {
    this._look();
  });
  /** What has the focus, and what it is in, from the inside out. */
  private _path: Element[] = [];
  private _isDisposed = false;
}
