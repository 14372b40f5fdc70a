import { Token } from '@lumino/coreutils';
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';

/** Where a kernel and its share stand. */
export type State =
  | 'queued'
  | 'starting'
  | 'active'
  | 'idle'
  | 'releasing'
  | 'released'
  | 'waking'
  | 'failed'
  | 'ended';

/** How a share is held apart from others on the same GPU. */
export type Isolation = 'hardware' | 'driver' | 'mps' | 'preload' | 'framework' | 'none';

/** What was granted. Memory in bytes. */
export interface IShare {
  readonly devices: readonly {
    readonly uuid: string;
    readonly model: string;
    readonly node: string;
  }[];
  readonly memory_bytes: number;
  readonly fraction: string | null;
  readonly isolation: Isolation;
  readonly simulated: boolean;
}

/** A kernel with its size, share and state, as REST and events tell it. Times are RFC 3339. */
export interface IAllocation {
  readonly kernel_id: string;
  readonly kernel_name: string;
  readonly path: string | null;
  readonly user: string | null;
  readonly size: string;
  readonly state: State;
  readonly reason: string;
  readonly share: IShare | null;
  readonly used_bytes: number | null;
  readonly utilization: number | null;
  readonly idle_since: string | null;
  readonly keep_until: string | null;
  readonly next: { readonly action: string; readonly at: string } | null;
  readonly queue: { readonly position: number; readonly of: number } | null;
  readonly engine: string;
  readonly backend: string | null;
  readonly style: string | null;
  readonly kept: IKept;
}

/** How variables are kept where a share goes: `none`, `in-place` or `snapshot`; what is lost. */
export interface IKept {
  readonly how: string;
  readonly lost: readonly string[];
}

/** Something that is lost: a variable where it has a name, what it is, and why in a sentence. */
export interface ILoss {
  readonly name: string;
  readonly what: string;
  readonly why: string;
}

/** All that was lost, and the files on the server of which something did not come back. */
export interface IReport {
  readonly lost: readonly ILoss[];
  readonly aside: readonly {
    readonly file: string;
    readonly bytes: number;
    readonly saved: string;
    readonly missing: readonly ILoss[];
  }[];
}

/** One GPU, or one MIG instance, and what is free of it. Memory in bytes. */
export interface IGpu {
  readonly uuid: string;
  readonly model: string;
  readonly node: string;
  readonly memory_bytes: number;
  readonly free_bytes: number;
  readonly profile: string | null;
  readonly simulated: boolean;
  readonly kernels: number;
}

/** One of the administrator's limits as it stands for the user. */
export interface ILimit {
  readonly resource: 'gpus' | 'memory_bytes' | 'kernels' | 'gpu_hours';
  /** Whose it is: the user's own, that of a group together, or of everybody together. */
  readonly scope: 'user' | 'group' | 'total';
  readonly group: string | null;
  /** Days up to now for which GPU-hours count; null for what is held now. */
  readonly window_days: number | null;
  /** In GPUs, bytes, kernels or GPU-hours; what waits counts as held. */
  readonly limit: number;
  readonly held: number;
  /** When hours that are used up are there again if nothing is used until then. */
  readonly free_at: string | null;
}

/** The GPUs, and how many kernels wait where the server tells. */
export interface IStatus {
  readonly version: string;
  readonly engine: string;
  readonly healthy: boolean;
  readonly problem: string | null;
  readonly simulated: boolean;
  readonly gpus: readonly IGpu[];
  readonly queue: number | null;
  /** When the next idle share of this server's kernels goes back; null where none is due. */
  readonly next_release: string | null;
  /** When kernels that wait may have a share, by id, where that is known. */
  readonly turns: Readonly<Record<string, string>>;
  /** The user's limits; none without a broker. */
  readonly limits: readonly ILimit[];
}

/** A time in which a kernel held the same share; `memory_bytes` over all devices. */
export interface ISpan {
  readonly begin: string;
  readonly end: string | null;
  readonly ended_by: 'release' | 'resize' | 'end' | null;
  readonly memory_bytes: number;
}

/** What the server knows of one kernel's last hour. Times are RFC 3339 by the server's clock. */
export interface IHistory {
  readonly kernel_id: string;
  readonly now: string;
  readonly held_since: string | null;
  readonly gpu_hours: number;
  readonly returned_gpu_hours: number;
  readonly spans: readonly ISpan[];
  /** An entry of each list for each interval of so many seconds from `begin` on. */
  readonly samples: {
    readonly begin: string | null;
    readonly interval: number;
    readonly used_bytes: readonly (number | null)[];
    readonly utilization: readonly (number | null)[];
  };
}

/** A size that the administrator offers. */
export interface IOffer {
  readonly size: string;
  readonly name: string;
  readonly description: string;
  readonly purpose: '' | 'explore' | 'train' | 'serve';
  readonly default: boolean;
  readonly available: boolean;
  readonly why: string | null;
  /** Whether a limit refuses it; else a kernel that asks for it waits. */
  readonly over_limit: boolean;
  /** What it has of each GPU here, the least and the most; null where that is not known. */
  readonly memory_bytes: readonly [number, number] | null;
}

/** The offered sizes and the rules about others. */
export interface ISizes {
  readonly sizes: readonly IOffer[];
  readonly default: string | null;
  readonly minimum: string | null;
  readonly maximum: string | null;
  readonly max_devices: number;
  readonly only_offered: boolean;
  /** Names of the kernelspecs whose kernels start on a share. */
  readonly kernelspecs: readonly string[];
}

/**
 * What can be said of the server: nothing yet, all is well, it does not answer, it does not have
 * this extension, it refuses us, or it failed.
 */
export type Health = 'loading' | 'ready' | 'away' | 'missing' | 'forbidden' | 'failed';

/** Memory in bytes and use from 0 to 1 at a moment in milliseconds; null where unknown. */
export interface IReading {
  readonly at: number;
  readonly used: number | null;
  readonly utilization: number | null;
}

/** The shares of this server's kernels. All rejections are errors with one line for the user. */
export interface IShares {
  readonly health: Health;
  /** What is wrong, in the server's words; empty where all is well. */
  readonly problem: string;
  /** By kernel id, in the order in which they came. A start that failed stays until the next. */
  readonly allocations: ReadonlyMap<string, IAllocation>;
  readonly status: IStatus | null;
  /** The offers as they were told last; `refreshSizes` asks again. */
  readonly sizes: ISizes | null;
  /** Anything above changed. */
  readonly changed: ISignal<IShares, void>;
  /** An allocation is new or changed; with what it was before. */
  readonly allocationChanged: ISignal<IShares, IChange>;
  /** Readings of the last minutes, the oldest first. */
  history(kernelId: string): readonly IReading[];
  /** What the server told last of a kernel's past hour; null where it was not asked yet. */
  past(kernelId: string): IHistory | null;
  /** Have the past of this kernel asked for while somebody observes; null: of none. */
  follow(kernelId: string | null): void;
  /** Poll readings and free memory, while the page is visible, until disposed. */
  observe(): IDisposable;
  refreshSizes(): Promise<ISizes>;
  /** What this kernel can have now: what it holds is free for it, and it is not behind itself. */
  sizesFor(kernelId: string): Promise<ISizes>;
  resize(kernelId: string, size: string, loseVariables: boolean): Promise<void>;
  /** What a change of size would keep; nothing is changed. */
  keptByResize(kernelId: string, size: string): Promise<IKept>;
  /** What giving the share back would keep; nothing is changed. */
  keptByRelease(kernelId: string): Promise<IKept>;
  /** Keep an unused share until then; null ends that. */
  keep(kernelId: string, until: Date | null): Promise<void>;
  release(kernelId: string, loseVariables: boolean): Promise<void>;
  wake(kernelId: string): Promise<void>;
  /** All that the last look and the last release have lost. */
  report(kernelId: string): Promise<IReport>;
  /** Remove the files of which something did not come back. */
  forgetReport(kernelId: string): Promise<void>;
  /** Show a start that failed no longer. */
  forget(kernelId: string): void;
}

export interface IChange {
  readonly before: IAllocation | null;
  readonly now: IAllocation;
}

export const IShares = new Token<IShares>(
  'jupyter-gpu-share:IShares',
  'The GPU shares of the kernels of this server, and what can be done with them.'
);

/** What was chosen for a path, and what kernels start with else. */
export interface IChoice {
  /** Null where nobody chose one. */
  readonly size: string | null;
  /** By kernelspec, of those whose kernels start on a share. */
  readonly defaults: Readonly<Record<string, string>>;
  /** By kernelspec, of those that name a size: their kernels start with that, whatever is chosen. */
  readonly fixed: Readonly<Record<string, string>>;
}

/**
 * Which size the next kernel of a notebook or console starts with. A change of size of a running
 * kernel is remembered too. All rejections are errors with one line for the user.
 */
export interface ISizeChoices {
  get(path: string): Promise<IChoice>;
  /**
   * Remember a choice, for the next start and later ones; null chooses the default. Rejects where
   * no kernel could start with it, or the kernelspec starts without a share: nothing is changed.
   */
  set(path: string, size: string | null, kernelspec?: string): Promise<void>;
  /** Reject as `set` would; nothing is remembered. */
  check(size: string, kernelspec?: string): Promise<void>;
  /** Have the one kernel that is about to start with this id have a size. */
  once(kernelId: string, kernel: IOnce): Promise<void>;
}

/** A kernel that is about to start: its size, its notebook's or console's path, its kernelspec. */
export interface IOnce {
  readonly size: string;
  readonly path: string;
  readonly name: string;
}

export const ISizeChoices = new Token<ISizeChoices>(
  'jupyter-gpu-share:ISizeChoices',
  'The size of a share that was last chosen for a notebook or console.'
);
