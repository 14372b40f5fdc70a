import type { TranslationBundle } from '@jupyterlab/translation';
import type { IAllocation, IGpu, IKept, ILimit, IShare, Isolation, State } from '../tokens';
import { clock, decimals, percent } from '../format';
import { span } from '../spans';
import { countdown, fileName, gibibytes, shortModel, shortSize, Words } from '../words';
import { bytesOf, isWithoutGpu, partOf, totalBytes } from './amounts';

const MINUTE = 60 * 1000;

/** What the sidebar says, in the reader's language. */
export class SidebarWords {
  constructor(private readonly _trans: TranslationBundle) {}

  /** The name under which a person knows a kernel. */
  name(row: IAllocation): string {
    return row.path === null ? row.kernel_name : fileName(row.path);
  }

  /** A few words for where a kernel stands. */
  state(row: IAllocation, now: number): string {
    const trans = this._trans;
    if (isWithoutGpu(row) && row.state !== 'failed') {
      return trans.__('Running');
    }
    if (row.queue !== null && row.state === 'queued') {
      return trans.__('Waiting, %1 of %2', row.queue.position, row.queue.of);
    }
    if (row.queue !== null && row.state === 'waking') {
      return trans.__('Waking, %1 of %2', row.queue.position, row.queue.of);
    }
    if (row.idle_since !== null && row.state === 'idle') {
      return trans.__('Idle for %1', this.span(now - Date.parse(row.idle_since)));
    }
    const plain: Readonly<Record<State, string>> = {
      queued: trans.__('Waiting'),
      starting: trans.__('Starting'),
      active: trans.__('Active'),
      idle: trans.__('Idle'),
      releasing: trans.__('Being given back'),
      released: trans.__('Given back'),
      waking: trans.__('Waking'),
      failed: trans.__('Failed'),
      ended: trans.__('Ended')
    };
    return plain[row.state];
  }

  /** What follows on the state, in a row: short, and with a time that stays true. */
  rowNext(row: IAllocation, turn: string | undefined, now: number): string {
    const trans = this._trans;
    if (row.state === 'queued' || row.state === 'waking') {
      return turn === undefined ? '' : this.about(turn, now);
    }
    if (row.state === 'released') {
      return row.kept.how === 'none' ? '' : trans.__('variables kept');
    }
    if (row.state === 'failed') {
      return row.reason;
    }
    if (row.keep_until !== null) {
      return trans.__('kept until %1', this.clock(row.keep_until));
    }
    return row.next?.action === 'release' ? trans.__('goes back %1', this.clock(row.next.at)) : '';
  }

  /** What happens to the share next, and when; empty where there is nothing to say. */
  next(row: IAllocation, turn: string | undefined, now: number): string {
    const trans = this._trans;
    if (row.state === 'queued' || row.state === 'waking') {
      return turn === undefined
        ? ''
        : trans.__(
            'An idle share goes back in %1, if nobody uses it. Then there is room.',
            this.about(turn, now)
          );
    }
    if (row.state === 'released') {
      return trans.__('Run a cell to take the share back.');
    }
    if (row.share === null || isWithoutGpu(row)) {
      return '';
    }
    if (row.keep_until !== null) {
      return trans.__('Kept until %1, even if no cell runs.', this.clock(row.keep_until));
    }
    switch (row.next?.action) {
      case 'release':
        return trans.__('Goes back in %1 unless a cell runs.', countdown(row.next.at, now));
      case 'warn':
        return trans.__(
          'Stays until %1 at least. Then you are warned before it goes back.',
          this.clock(row.next.at)
        );
      case 'cull':
        return trans.__('The kernel ends in %1 unless a cell runs.', countdown(row.next.at, now));
      default:
        return row.state === 'active' ? trans.__('Stays while it is used.') : '';
    }
  }

  /** What becomes of the size that the kernelspec names, where the kernel has another one. */
  named(size: string): string {
    return new Words(this._trans).named(size);
  }

  /** What becomes of the variables when the share goes. */
  kept(kept: IKept): string {
    const trans = this._trans;
    if (kept.how === 'none') {
      return kept.lost.length > 0 ? trans.__('All variables are lost then.') : '';
    }
    return kept.lost.length > 0
      ? trans.__('Variables are kept, but not these: %1.', kept.lost.join(', '))
      : trans.__('Variables are kept.');
  }

  /** The amount in large letters: GiB, or the size where that is not known. */
  amount(row: IAllocation, gpus: readonly IGpu[]): string {
    if (isWithoutGpu(row)) {
      return this._trans.__('No GPU');
    }
    const bytes = row.share === null ? bytesOf(row.size, gpus) : totalBytes(row.share);
    return bytes === null || bytes === 0 ? shortSize(row.size) : gibibytes(bytes);
  }

  /** Of what that is a part, and whether it is held; empty where the amount says all. */
  part(row: IAllocation): string {
    if (isWithoutGpu(row)) {
      return '';
    }
    const part = this.partOf(row);
    const away = row.share === null ? this._trans.__('not held') : '';
    return [part, away].filter(Boolean).join(' · ');
  }

  private partOf(row: IAllocation): string {
    const trans = this._trans;
    const [, count, one = row.size] = /^(\d+)x(.+)$/.exec(row.size) ?? [];
    const fraction = row.share?.fraction ?? one;
    const value = partOf(fraction);
    if (one.startsWith('mig')) {
      return one.replace(/^mig-/, 'MIG ');
    }
    if (value === null) {
      return '';
    }
    if (count !== undefined) {
      return value === 1
        ? trans.__('%1 whole GPUs', count)
        : trans.__('%1 of each of %2 GPUs', this.fraction(fraction, value), count);
    }
    return value === 1
      ? trans.__('a whole GPU')
      : trans.__('%1 of a GPU', this.fraction(fraction, value));
  }

  /** Size and GiB of a row: `½ · 40 GiB`. */
  chip(row: IAllocation, gpus: readonly IGpu[]): string {
    const size = shortSize(row.size);
    const amount = this.amount(row, gpus);
    return isWithoutGpu(row) || amount === size ? amount : `${size} · ${amount}`;
  }

  /** Model and node of a share: `A100-80GB · node-3`. */
  place(share: IShare): string {
    const models = new Set(share.devices.map(each => shortModel(each.model)));
    const nodes = new Set(share.devices.map(each => each.node));
    return [...models, ...nodes].join(' · ');
  }

  /** How the share is held apart, in one phrase. */
  isolation(share: IShare): string {
    const trans = this._trans;
    const limit = gibibytes(share.memory_bytes);
    const said: Readonly<Record<Isolation, string>> = {
      hardware: trans.__('A part of the chip of its own.'),
      driver: trans.__('Hard limit: more than %1 is refused.', limit),
      mps: trans.__('Hard limit: more than %1 is refused.', limit),
      preload: trans.__('Limit of %1, kept by a library.', limit),
      framework: trans.__('Soft limit: a cell above %1 is stopped.', limit),
      none: trans.__('No limit: others can take what you do not use.')
    };
    return said[share.isolation];
  }

  /** The same, with who keeps to it. */
  isolationWhy(isolation: Isolation): string {
    const trans = this._trans;
    const said: Readonly<Record<Isolation, string>> = {
      hardware: trans.__(
        'The GPU itself keeps its MIG instances apart: memory and processors are yours alone.'
      ),
      driver: trans.__('The driver counts the memory of each kernel. Processors are shared.'),
      mps: trans.__('NVIDIA MPS counts the memory of each kernel, and shares the processors.'),
      preload: trans.__(
        'A library in the kernel counts the memory. A program that does not load it is not held to the limit.'
      ),
      framework: trans.__(
        'PyTorch and JAX are told the limit. Memory is watched too: you are warned near the limit, and a cell above it is interrupted. Processors are shared.'
      ),
      none: trans.__(
        'The share is counted, and nothing holds programs to it. Keep to it, so that others have theirs.'
      )
    };
    return said[isolation];
  }

  /** A length of time, short: `50 s`, `9 min`, `1 h 5 min`. */
  span(milliseconds: number): string {
    return span(milliseconds, this._trans);
  }

  /** About how long it is until a moment: never less than a minute, as it is not known better. */
  about(at: string, now: number): string {
    return this._trans.__('about %1', this._left(at, now));
  }

  /** GPU-hours: two decimals, as many as a person compares. */
  hours(value: number): string {
    const places = value < 10 ? 2 : 1;
    return value > 0 && value < 0.01 ? `< ${decimals(0.01, 2)}` : decimals(value, places, places);
  }

  /** How much of a limit is taken: `2 of 3 kernels`. */
  limit({ resource, held, limit, window_days: days }: ILimit): string {
    const trans = this._trans;
    const has = amountOf(resource, held);
    const most = amountOf(resource, limit);
    switch (resource) {
      case 'kernels':
        return trans._n('%2 of %1 kernel', '%2 of %1 kernels', limit, has);
      case 'memory_bytes':
        return trans.__('%1 of %2 GiB', has, most);
      case 'gpu_hours':
        return trans._n(
          '%2 of %3 GPU-hours in %1 day',
          '%2 of %3 GPU-hours in %1 days',
          days ?? 0,
          has,
          most
        );
      default:
        return trans._n('%2 of %3 GPU', '%2 of %3 GPUs', Math.ceil(limit), has, most);
    }
  }

  /** Whose a limit is; empty where it is the user's own. */
  whoseLimit({ scope, group }: ILimit): string {
    switch (scope) {
      case 'group':
        return this._trans.__('group %1', group ?? '');
      case 'total':
        return this._trans.__('everybody together');
      default:
        return '';
    }
  }

  /** When hours that are used up are there again; empty where that is not to be said. */
  limitFree({ free_at: at }: ILimit, now: number): string {
    return at === null
      ? ''
      : this._trans.__(
          'Used up. There is room in %1 if nothing is used until then.',
          this._left(at, now)
        );
  }

  private _left(at: string, now: number): string {
    const left = Math.ceil((Date.parse(at) - now) / MINUTE) * MINUTE;
    return this.span(Math.max(MINUTE, left));
  }

  /** The hour and minute of a moment. */
  clock(at: string | number): string {
    return clock(at);
  }

  /** A part and its whole: `14.2 of 20 GiB`. */
  of(part: number, whole: number): string {
    return this._trans.__('%1 of %2', gibibytes(part).replace(/ GiB$/, ''), gibibytes(whole));
  }

  /** Use of the GPU in percent. */
  percent(value: number): string {
    return percent(value);
  }

  private fraction(text: string, value: number): string {
    const short = shortSize(text);
    // Such as 37/80 for what was asked for in GiB.
    return /^\d+\/\d+$/.test(short) && short.length > 4 ? this.percent(value) : short;
  }
}

const GIB = 2 ** 30;

/** Two decimals at most, which is what a person compares; of hours one. */
function amountOf(resource: ILimit['resource'], value: number): string {
  if (resource === 'memory_bytes') {
    return decimals(value / GIB, 1);
  }
  return decimals(value, resource === 'gpu_hours' ? 1 : 2);
}
