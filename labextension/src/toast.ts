import { Notification } from '@jupyterlab/apputils';
import type { IMessage } from './messages';

/** Milliseconds between two looks, and after which a message is taken for never put up. */
const LOOK = 100;
const LATEST = 5000;

/**
 * One place on the page for a message that may change, or go, at any time.
 *
 * Lab puts a message up some time after it was given, and one that is changed or taken back before
 * that stays as it was. So each step waits until the one before is seen.
 */
export class Toast {
  /**
   * @param _actions - The buttons of a message.
   */
  constructor(private readonly _actions: (message: IMessage) => Notification.IAction[]) {}

  /** Show a message instead of the one before; null shows none. */
  show(message: IMessage | null): void {
    this._wanted = message;
    if (!this._busy) {
      this._step();
    }
  }

  private _step(): void {
    const wanted = this._wanted;
    if (wanted === this._shown || wanted?.text === this._shown?.text) {
      return;
    }
    const there = this._id !== null && Notification.manager.has(this._id);
    if (this._id !== null && !there && this._shown !== null) {
      // Somebody has closed it: only what is about another kernel is new.
      this._closed = new Set(this._shown.kernels);
    }
    this._shown = wanted;
    if (wanted === null) {
      this._closed = new Set();
      if (this._id !== null) {
        Notification.dismiss(this._id);
        this._id = null;
      }
      return;
    }
    const { text: message, type } = wanted;
    const options = { autoClose: false as const, actions: this._actions(wanted) };
    if (there && this._id !== null) {
      Notification.update({ id: this._id, message, type, ...options });
    } else if (wanted.kernels.some(id => !this._closed.has(id))) {
      this._id = Notification.emit(message, type, options);
    } else {
      return;
    }
    this._busy = true;
    this._wait(this._id, Date.now() + LATEST);
  }

  private _wait(id: string | null, end: number): void {
    setTimeout(() => {
      if (id !== null && document.getElementById(id) === null && Date.now() < end) {
        this._wait(id, end);
      } else {
        this._busy = false;
        this._step();
      }
    }, LOOK);
  }

  private _id: string | null = null;
  private _wanted: IMessage | null = null;
  private _shown: IMessage | null = null;
  private _closed: ReadonlySet<string> = new Set<string>();
  private _busy = false;
}
