import { Notification } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import { CommandIDs } from './commands';
import type { IAllocation, IChange, IShares } from './tokens';
import { clock, fileName } from './words';

/** Says what happens to shares while nobody looks at them; one message for each kernel. */
export class Notifications {
  constructor(
    shares: IShares,
    private readonly _commands: CommandRegistry,
    private readonly _trans: TranslationBundle
  ) {
    shares.allocationChanged.connect((_, change) => this._tell(change));
  }

  private _tell({ before, now }: IChange): void {
    const trans = this._trans;
    const name = now.path === null ? now.kernel_name : fileName(now.path);
    if (before === null && now.state !== 'failed' && now.state !== 'queued') {
      return; // of before the page was opened, or as it was asked for
    }
    switch (now.state) {
      case 'queued':
      case 'waking':
        if (now.queue !== null) {
          const { position, of } = now.queue;
          const place = trans.__('%1 waits for a share: %2 of %3.', name, position, of);
          this._say(now, 'in-progress', `${place} ${now.reason}`, [this._giveUp(now)]);
        }
        return;
      case 'failed':
        this._say(now, 'error', trans.__('%1 has no share: %2', name, now.reason));
        return;
      case 'released':
        this._say(now, 'info', trans.__('The share of %1 is given back. %2', name, now.reason));
        return;
      case 'idle':
        if (now.next?.action === 'release' && now.keep_until === null) {
          // The message stands still, so it names a time that stays true.
          const at = clock(now.next.at);
          this._say(now, 'warning', trans.__('The share of %1 goes back at %2.', name, at), [
            this._keep(now)
          ]);
          return;
        }
        break;
      case 'active':
        if (before?.state === 'queued' || before?.state === 'waking') {
          this._say(now, 'success', trans.__('%1 has its share.', name), [], 3000);
          return;
        }
        break;
      default:
        break;
    }
    this._dismiss(now.kernel_id);
  }

  private _say(
    row: IAllocation,
    type: Notification.TypeOptions,
    message: string,
    actions: Notification.IAction[] = [],
    autoClose: number | false = false
  ): void {
    const id = this._ids.get(row.kernel_id);
    const options = { autoClose, actions };
    if (id === undefined || !Notification.update({ id, message, type, ...options })) {
      this._ids.set(row.kernel_id, Notification.emit(message, type, options));
    }
  }

  private _dismiss(kernelId: string): void {
    const id = this._ids.get(kernelId);
    if (id !== undefined) {
      Notification.dismiss(id);
      this._ids.delete(kernelId);
    }
  }

  private _keep(row: IAllocation): Notification.IAction {
    return {
      label: this._trans.__('Keep GPU'),
      displayType: 'accent',
      callback: () => {
        void this._commands.execute(CommandIDs.keep, { kernelId: row.kernel_id });
      }
    };
  }

  private _giveUp(row: IAllocation): Notification.IAction {
    return {
      label: this._trans.__('Stop waiting'),
      callback: () => {
        void this._commands.execute(CommandIDs.giveBack, { kernelId: row.kernel_id });
      }
    };
  }

  private readonly _ids = new Map<string, string>();
}
