import { ServerConnection, type Event, type IConnectionStatus } from '@jupyterlab/services';
import { DisposableDelegate, type IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { Signal, type ISignal } from '@lumino/signaling';
import { Budget } from './budget';
import { serverNow } from './clock';
import type { Sentences } from './sentences';
import { ask, Refusal } from './server';
import type {
  Health,
  IAllocation,
  IChange,
  IHistory,
  IKept,
  IReading,
  IReport,
  IShares,
  ISizes,
  IStatus
} from './tokens';

const EVENT = 'https://events.jupyter.org/jupyter_gpu_share/allocation/v1';
/** Milliseconds between two requests of a page. It leaves room for what is asked in a hurry. */
const INTERVAL = 6000;
/** Milliseconds after which the past of the kernel that is followed is asked for again. */
const PAST_AGAIN = 60 * 1000;
/** Milliseconds of readings that are kept. */
const SPAN = 5 * 60 * 1000;
/** Free memory changes less than readings do: so many requests for those come before it. Where
 *  something has happened to a share, one is enough. */
const READINGS_FIRST = 2;

/** Allocations by events, and readings by asking while somebody looks. */
export class Shares implements IShares, IDisposable {
  constructor(private readonly _options: Shares.IOptions) {
    this._poll = new Poll({
      auto: false,
      factory: () => this._refresh(),
      frequency: { interval: INTERVAL, backoff: true, max: 60 * 1000 },
      // Not once more after the page was hidden.
      linger: 0,
      name: 'jupyter-gpu-share:shares',
      standby: () => this._rests() || 'when-hidden'
    });
    _options.events.stream.connect(this._onEvent, this);
    void this._poll.start();
  }

  get health(): Health {
    return this._connected ? this._health : 'away';
  }

  get problem(): string {
    return this._problem || this._status?.problem || '';
  }

  get allocations(): ReadonlyMap<string, IAllocation> {
    return this._allocations;
  }

  get status(): IStatus | null {
    return this._status;
  }

  get sizes(): ISizes | null {
    return this._sizes;
  }

  get changed(): ISignal<IShares, void> {
    return this._changed;
  }

  get allocationChanged(): ISignal<IShares, IChange> {
    return this._allocationChanged;
  }

  get isDisposed(): boolean {
    return this._poll.isDisposed;
  }

  dispose(): void {
    if (!this.isDisposed) {
      this._poll.dispose();
      Signal.clearData(this);
    }
  }

  history(kernelId: string): readonly IReading[] {
    return this._histories.get(kernelId) ?? [];
  }

  past(kernelId: string): IHistory | null {
    return this._pasts.get(kernelId)?.past ?? null;
  }

  follow(kernelId: string | null): void {
    if (kernelId !== this._followed) {
      this._followed = kernelId;
      this._hurry();
    }
  }

  observe(): IDisposable {
    this._observers += 1;
    this._hurry();
    // Else as soon as any other request: readings are old.
    const interval = Math.max(0, this._asked + INTERVAL - Date.now());
    if (this._observers === 1 && !this._missing) {
      void this._poll.schedule({ interval, phase: 'refreshed' });
    }
    return new DisposableDelegate(() => {
      this._observers -= 1;
    });
  }

  async refreshSizes(): Promise<ISizes> {
    this._sizes = await this._ask<ISizes>(['gpu-share', 'sizes']);
    this._changed.emit();
    return this._sizes;
  }

  async sizesFor(kernelId: string): Promise<ISizes> {
    // Of a start that failed the server knows no more: it is as for a new one.
    const known = this._allocations.get(kernelId)?.state !== 'failed';
    const query = known ? { kernel_id: kernelId } : {};
    const found = await this._ask<ISizes>(['gpu-share', 'sizes'], { query });
    // Better than nothing for what opens before it has asked.
    this._sizes ??= found;
    return found;
  }

  async resize(kernelId: string, size: string, loseVariables: boolean): Promise<void> {
    await this._act('PATCH', [kernelId], { size, restart: loseVariables });
  }

  async keptByResize(kernelId: string, size: string): Promise<IKept> {
    return this._kept('PATCH', [kernelId], { size, dry_run: true });
  }

  async keptByRelease(kernelId: string): Promise<IKept> {
    return this._kept('POST', [kernelId, 'release'], { dry_run: true });
  }

  async keep(kernelId: string, until: Date | null): Promise<void> {
    await this._act('PATCH', [kernelId], { keep_until: until?.toISOString() ?? null });
  }

  async release(kernelId: string, loseVariables: boolean): Promise<void> {
    await this._act('POST', [kernelId, 'release'], { lose_variables: loseVariables });
  }

  async wake(kernelId: string): Promise<void> {
    await this._act('POST', [kernelId, 'wake'], {});
  }

  async report(kernelId: string): Promise<IReport> {
    return this._ask<IReport>(['gpu-share', 'allocations', kernelId, 'kept']);
  }

  async forgetReport(kernelId: string): Promise<void> {
    await this._ask(['gpu-share', 'allocations', kernelId, 'kept'], { method: 'DELETE' });
  }

  forget(kernelId: string): void {
    const row = this._allocations.get(kernelId);
    if (row?.state === 'failed') {
      this._drop(row);
      this._changed.emit();
    }
  }

  private get _connected(): boolean {
    return this._options.connection?.isConnected ?? true;
  }

  /** Whether nothing is to be asked even on a page that is seen. Asked by each tick. */
  private _rests(): boolean {
    const connected = this._connected;
    if (!connected) {
      // What happens meanwhile is told to nobody.
      this._stale = true;
    }
    if (connected !== this._wasConnected) {
      this._wasConnected = connected;
      this._changed.emit();
    }
    const wanted = this._stale || this._observers > 0;
    return !wanted || !connected || this._health === 'missing';
  }

  private _ask<T>(path: string[], request = {}): Promise<T> {
    const { serverSettings, sentences } = this._options;
    return ask<T>(serverSettings, path, { ...request, sentences });
  }

  private async _kept(method: 'PATCH' | 'POST', path: string[], body: unknown): Promise<IKept> {
    const place = ['gpu-share', 'allocations', ...path];
    return (await this._ask<IAllocation>(place, { method, body })).kept;
  }

  private async _act(method: 'PATCH' | 'POST', path: string[], body: unknown): Promise<void> {
    const place = ['gpu-share', 'allocations', ...path];
    this._take(await this._ask<IAllocation>(place, { method, body }));
    this._changed.emit();
  }

  /** What is shown and not known at all: it is asked for in a hurry. */
  private get _missing(): 'status' | 'past' | null {
    if (this._observers === 0 || this._health !== 'ready' || this._stale) {
      return null;
    }
    if (this._followed !== null && !this._pasts.has(this._followed)) {
      return 'past';
    }
    return this._status === null ? 'status' : null;
  }

  private _hurry(): void {
    // What is asked for now comes first; its end looks here again.
    if (this._missing && !this._asking && !this.isDisposed) {
      const interval = this._budget.delay(Date.now());
      void this._poll.schedule({ interval, phase: 'refreshed' });
    }
  }

  /** Have the next request wait where hurried ones have left nothing of the minute. */
  private _pay(): void {
    const late = this._budget.delay(Date.now() + INTERVAL);
    if (this._observers > 0 && !this._missing && late > 0 && !this.isDisposed) {
      void this._poll.schedule({ interval: INTERVAL + late, phase: 'refreshed' });
    }
  }

  /** What the next request is for: the allocations, and now and then the GPUs or the past. */
  private _turn(): 'allocations' | 'status' | 'past' {
    if (this._stale) {
      return 'allocations';
    }
    if (this._missing) {
      return this._missing;
    }
    const known = this._followed === null ? undefined : this._pasts.get(this._followed);
    if (this._observers > 0 && known !== undefined && known.at < Date.now() - PAST_AGAIN) {
      return 'past';
    }
    const readings = this._eventful ? 1 : READINGS_FIRST;
    return this._readings >= readings ? 'status' : 'allocations';
  }

  /** One request. */
  private async _refresh(): Promise<void> {
    this._asked = Date.now();
    this._budget.spend(this._asked);
    const turn = this._turn();
    this._asking = true;
    try {
      if (turn === 'status') {
        this._readings = 0;
        this._eventful = false;
        this._status = await this._ask<IStatus>(['gpu-share', 'status']);
      } else if (turn === 'past') {
        await this._refreshPast(this._followed);
      } else {
        const rows = await this._ask<IAllocation[]>(['gpu-share', 'allocations']);
        const known = new Set(rows.map(row => row.kernel_id));
        for (const row of [...this._allocations.values()]) {
          if (!known.has(row.kernel_id) && row.state !== 'failed') {
            this._take({ ...row, state: 'ended' });
          }
        }
        rows.forEach(row => this._take(row));
        this._stale = false;
        this._readings += 1;
      }
      this._asking = false;
      this._tell('ready', '');
      this._hurry();
      this._pay();
    } catch (error) {
      this._tell(...judged(error));
      throw error;
    } finally {
      this._asking = false;
    }
  }

  private async _refreshPast(kernelId: string | null): Promise<void> {
    if (kernelId === null) {
      return;
    }
    // What cannot be had now is not asked for again at once.
    let past = this.past(kernelId);
    this._pasts.set(kernelId, { past, at: Date.now() });
    try {
      past = await this._ask<IHistory>(['gpu-share', 'history', kernelId]);
    } catch (error) {
      if (!(error instanceof Refusal)) {
        throw error;
      }
      // The kernel has just ended; that is told by its allocation.
    }
    if (this._allocations.has(kernelId)) {
      this._pasts.set(kernelId, { past, at: Date.now() });
    } else {
      this._pasts.delete(kernelId);
    }
  }

  private _tell(health: Health, problem: string): void {
    this._health = health;
    this._problem = problem;
    this._changed.emit();
  }

  private _onEvent(_: unknown, event: Event.Emission): void {
    if (event.schema_id !== EVENT) {
      return;
    }
    const told = event as unknown as IAllocation;
    const row = this._options.sentences?.into(told) ?? told;
    // What is free has changed too.
    this._eventful = true;
    this._take(row);
    this._changed.emit();
  }

  private _take(row: IAllocation): void {
    const before = this._allocations.get(row.kernel_id) ?? null;
    if (row.state === 'ended' && before?.state === 'failed' && before.path !== null) {
      return; // why it failed is seen until the notebook has another kernel
    }
    if (row.state === 'ended') {
      this._allocations.delete(row.kernel_id);
      this._histories.delete(row.kernel_id);
      this._pasts.delete(row.kernel_id);
    } else {
      if (before === null) {
        this._meet(row);
      }
      this._allocations.set(row.kernel_id, row);
      this._read(row);
    }
    const known = this._pasts.get(row.kernel_id);
    if (known !== undefined && before?.share?.memory_bytes !== row.share?.memory_bytes) {
      // It was released, or is back: the server has noted when.
      known.at = 0;
    }
    if (before === null || standing(before) !== standing(row)) {
      this._allocationChanged.emit({ before, now: row });
    }
  }

  private _drop(row: IAllocation): void {
    this._allocations.delete(row.kernel_id);
    this._allocationChanged.emit({ before: row, now: { ...row, state: 'ended' } });
  }

  /** A kernel is new: what failed before in its notebook is not shown any more. */
  private _meet(row: IAllocation): void {
    for (const other of [...this._allocations.values()]) {
      if (other.state === 'failed' && other.path === row.path) {
        this._drop(other);
      }
    }
  }

  private _read(row: IAllocation): void {
    const at = serverNow();
    const recent = this.history(row.kernel_id).filter(reading => reading.at > at - SPAN);
    const reading = { at, used: row.used_bytes, utilization: row.utilization };
    this._histories.set(row.kernel_id, [...recent, reading]);
  }

  private readonly _allocations = new Map<string, IAllocation>();
  private readonly _histories = new Map<string, readonly IReading[]>();
  private readonly _pasts = new Map<string, { past: IHistory | null; at: number }>();
  private readonly _budget = new Budget();
  private readonly _changed = new Signal<IShares, void>(this);
  private readonly _allocationChanged = new Signal<IShares, IChange>(this);
  private readonly _poll: Poll;
  private _status: IStatus | null = null;
  private _sizes: ISizes | null = null;
  private _health: Health = 'loading';
  private _problem = '';
  private _stale = true;
  private _wasConnected = true;
  private _observers = 0;
  private _followed: string | null = null;
  private _readings = 0;
  private _eventful = false;
  private _asked = 0;
  private _asking = false;
}

/** What of an allocation is worth telling of: all but readings. */
function standing({ state, reason, size, queue, next, keep_until }: IAllocation): string {
  return JSON.stringify([state, reason, size, queue, next, keep_until]);
}

function judged(error: unknown): [Health, string] {
  if (error instanceof Refusal) {
    const known = new Map<number, Health>([
      [403, 'forbidden'],
      [404, 'missing']
    ]);
    return [known.get(error.status) ?? 'failed', error.message];
  }
  if (error instanceof ServerConnection.NetworkError) {
    return ['away', ''];
  }
  return ['failed', String(error)];
}

export namespace Shares {
  export interface IOptions {
    serverSettings: ServerConnection.ISettings;
    /** Where changes of allocations are told. */
    events: Event.IManager;
    /** Nothing is asked while the server is known to be unreachable. */
    connection?: IConnectionStatus | undefined;
    /** Without it, what the server says stays English. */
    sentences?: Sentences | undefined;
  }
}
