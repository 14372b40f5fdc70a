import type { IRunningSessions } from '@jupyterlab/running';
import type { TranslationBundle } from '@jupyterlab/translation';
import { LabIcon } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import { Signal, type ISignal } from '@lumino/signaling';
import { CommandIDs } from './commands';
import type { IAllocation, IShares } from './tokens';
import { fileName, Words } from './words';

/** The section of the Running panel that lists kernels with a share. */
export class RunningShares implements IRunningSessions.IManager {
  constructor(
    private readonly _shares: IShares,
    private readonly _commands: CommandRegistry,
    private readonly _icon: LabIcon,
    private readonly _trans: TranslationBundle,
    private readonly _open: (path: string) => void
  ) {
    this.name = _trans.__('GPU shares');
    this.shutdownAllLabel = _trans.__('Give Back All');
    this.shutdownLabel = _trans.__('Give Back');
    _shares.changed.connect(() => this._changed.emit());
  }

  readonly name: string;
  readonly shutdownLabel: string;
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
    for (const row of this._shares.allocations.values()) {
      if (row.share !== null && row.kept.how !== 'none') {
        void this._commands.execute(CommandIDs.giveBack, { kernelId: row.kernel_id });
      }
    }
  }

  private _item(row: IAllocation): IRunningSessions.IRunningItem {
    const words = new Words(this._trans);
    const { path } = row;
    return {
      open: () => {
        if (path !== null) {
          this._open(path);
        }
      },
      shutdown: () => {
        void this._commands.execute(CommandIDs.giveBack, { kernelId: row.kernel_id });
      },
      icon: () => this._icon,
      label: () => (path === null ? row.kernel_name : fileName(path)),
      labelTitle: () => row.reason,
      detail: () => `${words.label(row)}, ${words.state(row, Date.now())}`
    };
  }

  private readonly _changed = new Signal<this, void>(this);
}
