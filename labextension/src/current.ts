import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { ISessionContext } from '@jupyterlab/apputils';
import { UUID } from '@lumino/coreutils';
import type { IDisposable } from '@lumino/disposable';
import { Signal, type ISignal } from '@lumino/signaling';
import type { Widget } from '@lumino/widgets';
import { choiceKey } from './choices';
import type { IAllocation, IShares, ISizeChoices } from './tokens';

/** The session of a notebook or console; null for other widgets. */
export function sessionOf(widget: Widget | null): ISessionContext | null {
  const found = (widget as { sessionContext?: ISessionContext } | null)?.sessionContext;
  return found !== undefined && 'kernelChanged' in found ? found : null;
}

/** The share of a session's kernel; null where there is none. */
export function shareOf(shares: IShares, context: ISessionContext | null): IAllocation | null {
  if (context === null || context.isDisposed) {
    return null;
  }
  const id = context.session?.kernel?.id;
  if (id !== undefined) {
    return shares.allocations.get(id) ?? null;
  }
  // The session is there only once its kernel answers; until then it is known by its path.
  const path = choiceKey(context.path, context.name);
  const starts = ['queued', 'starting', 'failed'];
  const rows = [...shares.allocations.values()].reverse();
  return rows.find(row => row.path === path && starts.includes(row.state)) ?? null;
}

/**
 * Start a kernel for the notebook or console of a start that failed, with another size. A notebook
 * that is not open is opened.
 */
export async function startAgain(
  { shell, commands }: JupyterFrontEnd,
  choices: ISizeChoices | null,
  row: IAllocation,
  size: string
): Promise<void> {
  const widgets = [...shell.widgets('main')].map(sessionOf);
  const context = widgets.find(
    each => each !== null && choiceKey(each.path, each.name) === row.path
  );
  const { path, kernel_name: name } = row;
  const fixed = path !== null && choices !== null && name in (await choices.get(path)).fixed;
  const opens = path?.endsWith('.ipynb') === true && !fixed;
  if (path === null || choices === null || (!context && !opens)) {
    throw new Error(`${path ?? name} is not open; open it to start its kernel.`);
  }
  if (fixed) {
    // Another size is for this one kernel: it would make the name of the kernelspec untrue.
    const id = UUID.uuid4();
    await choices.once(id, { size, path, name });
    await context?.changeKernel({ id, name });
    return;
  }
  await choices.set(path, size, name);
  await (context?.changeKernel({ name }) ??
    commands.execute('docmanager:open', { path, kernel: { name } }));
}

/** The kernel of the notebook or console that the user is in. */
export class CurrentKernel implements IDisposable {
  constructor(
    private readonly _shell: JupyterFrontEnd.IShell,
    private readonly _shares: IShares
  ) {
    _shell.currentChanged?.connect(this._follow, this);
    this._follow();
  }

  /** Its session; null elsewhere than in a notebook or console. */
  get session(): ISessionContext | null {
    return this._session?.isDisposed ? null : this._session;
  }

  get allocation(): IAllocation | null {
    return shareOf(this._shares, this.session);
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  dispose(): void {
    this._disposed = true;
    Signal.clearData(this);
  }

  private _follow(): void {
    this._session?.kernelChanged.disconnect(this._tell, this);
    this._session = sessionOf(this._shell.currentWidget);
    this._session?.kernelChanged.connect(this._tell, this);
    this._tell();
  }

  private _tell(): void {
    this._changed.emit();
  }

  private readonly _changed = new Signal<this, void>(this);
  private _session: ISessionContext | null = null;
  private _disposed = false;
}
