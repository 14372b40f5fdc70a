import { Notification } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import { Signal } from '@lumino/signaling';
import type { Attention } from './attention';
import { Messages, type IMessage, type Kind } from './messages';
import { Toast } from './toast';
import type { IChange, IShares } from './tokens';

/** Kinds for which a person who looks elsewhere is called. */
const CALLS: readonly Kind[] = ['arrived', 'warning', 'failed'];

/** Says what is true of shares while nobody looks at them. No message outlives its truth. */
export class Notifications {
  /**
   * @param _wanted - Whether a kind of message is wanted.
   */
  constructor(
    private readonly _shares: IShares,
    private readonly _commands: CommandRegistry,
    private readonly _attention: Attention,
    trans: TranslationBundle,
    private readonly _wanted: (kind: Kind) => boolean = () => true
  ) {
    this._messages = new Messages(trans);
    _shares.allocationChanged.connect(this._heard, this);
    _shares.changed.connect(this.update, this);
  }

  dispose(): void {
    Signal.clearData(this);
    this._toasts.forEach(toast => toast.show(null));
    this._attention.dispose();
  }

  /** Show what is true and wanted now. */
  update(): void {
    const rows = this._shares.health === 'ready' ? [...this._shares.allocations.values()] : [];
    const all = this._messages.of(rows, this._released);
    for (const [key, message] of [...all]) {
      if (!this._wanted(message.kind)) {
        all.delete(key);
      }
    }
    for (const [key, message] of all) {
      if (!this._toasts.has(key)) {
        this._toasts.set(key, new Toast(each => this._actions(each)));
        if (CALLS.includes(message.kind)) {
          this._attention.call(message.text, key);
        }
      }
    }
    for (const [key, toast] of this._toasts) {
      toast.show(all.get(key) ?? null);
      if (!all.has(key)) {
        this._toasts.delete(key);
      }
    }
  }

  private _heard(_: IShares, change: IChange): void {
    const { before, now } = change;
    if (now.state !== 'released') {
      this._released.delete(now.kernel_id);
    } else if (before !== null && before.state !== 'released') {
      this._released.add(now.kernel_id);
    }
    const message = this._messages.event(change);
    if (message !== null && this._wanted(message.kind)) {
      Notification.emit(message.text, message.type, { autoClose: 3000 });
      this._attention.call(message.text, now.kernel_id);
    }
  }

  private _actions(message: IMessage): Notification.IAction[] {
    return message.buttons
      .filter(({ command }) => this._commands.hasCommand(command))
      .map(({ label, command, accent }) => ({
        label,
        ...(accent && { displayType: 'accent' as const }),
        callback: () => {
          for (const kernelId of message.kernels) {
            void this._commands.execute(command, { kernelId });
          }
        }
      }));
  }

  private readonly _messages: Messages;
  private readonly _toasts = new Map<string, Toast>();
  private readonly _released = new Set<string>();
}
