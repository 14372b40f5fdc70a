import type { IRunningSessions } from '@jupyterlab/running';
import type { TranslationBundle } from '@jupyterlab/translation';
import { LabIcon } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import { Signal, type ISignal } from '@lumino/signaling';
import type { Actions } from './actions';
import { serverNow } from './clock';
import { CommandIDs } from './commands';
import type { IAllocation, IShares } from './tokens';
import { fileName, Words } from './words';

interface IShareItem extends IRunningSessions.IRunningItem {
  readonly row: IAllocation;
}

/** The section of the Running panel that lists kernels with a share. */
export class RunningShares implements IRunningSessions.IManager {
  constructor(
    private readonly _shares: IShares,
    private readonly _commands: CommandRegistry,
    private readonly _icon: LabIcon,
    private readonly _actions: Actions,
    private readonly _trans: TranslationBundle,
    private readonly _open: (path: string) => void
  ) {
    // The tool that extracts texts finds those of `trans` and `this._trans`.
    const trans = _trans;
    this.name = trans.__('GPU shares');
    this.shutdownAllLabel = trans.__('Give Back All');
    this.shutdownLabel = item => this._label(item);
    _shares.changed.connect(this._tell, this);
  }

  dispose(): void {
    Signal.clearData(this);
  }

  readonly name: string;
  readonly shutdownLabel: (item: IRunningSessions.IRunningItem) => string;
  readonly shutdownAllLabel: string;

  get runningChanged(): ISignal<this, void> {
    return this._changed;
  }

  running(): IRunningSessions.IRunningItem[] {
    return [...this._shares.allocations.values()].map(row => this._item(row));
  }

  refreshRunning(): void {
    // Changes arrive by themselves.
  }

  /** Called by the panel after its own question. What would lose variables stays. */
  shutdownAll(): void {
    void this._actions.giveBackAll([...this._shares.allocations.values()]);
  }

  private _tell(): void {
    this._changed.emit();
  }

  private _label(item: IRunningSessions.IRunningItem): string {
    const row = (item as Partial<IShareItem>).row;
    if (row?.state === 'failed') {
      return this._trans.__('Hide');
    }
    return row?.queue ? this._trans.__('Stop Waiting') : this._trans.__('Give Back');
  }

  private _item(row: IAllocation): IShareItem {
    const words = new Words(this._trans);
    const { path } = row;
    const args = { kernelId: row.kernel_id };
    const command = row.state === 'failed' ? CommandIDs.forget : CommandIDs.giveBack;
    // What is given back already has nothing to press.
    const ends = row.share !== null || row.queue !== null || row.state === 'failed';
    return {
      row,
      ...(ends && { shutdown: () => void this._commands.execute(command, args) }),
      open: () => {
        if (path !== null) {
          this._open(path);
        }
      },
      icon: () => this._icon,
      label: () => (path === null ? row.kernel_name : fileName(path)),
      labelTitle: () => [path ?? row.kernel_name, row.reason].filter(Boolean).join('\n'),
      // The state first: the panel cuts what is long.
      detail: () => `${words.state(row, serverNow())}, ${words.label(row)}`
    };
  }

  private readonly _changed = new Signal<this, void>(this);
}
