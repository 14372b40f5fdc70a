import type { TranslationBundle } from '@jupyterlab/translation';
import { CommandIDs } from './commands';
import type { IAllocation, IChange } from './tokens';
import { clock, fileName } from './words';

/** Kinds of messages; each can be switched off. */
export const KINDS = ['waiting', 'arrived', 'warning', 'released', 'failed'] as const;
export type Kind = (typeof KINDS)[number];

/** A button of a message: a command, for the kernels that it is about. */
export interface IButton {
  readonly label: string;
  readonly command: string;
  readonly accent?: boolean;
}

/** What is true now and worth telling. Kernels that are told of the same share one message. */
export interface IMessage {
  readonly kind: Kind;
  readonly type: 'info' | 'in-progress' | 'warning' | 'error' | 'success';
  readonly text: string;
  /** Ids of the kernels that it is about. */
  readonly kernels: readonly string[];
  readonly buttons: readonly IButton[];
}

/** Names that are written out; the others are counted. */
const NAMED = 3;

/** Makes messages of what is true of the kernels. */
export class Messages {
  constructor(private readonly _trans: TranslationBundle) {}

  /**
   * What is to be told now, by a key under which a later message takes the place of an earlier one.
   *
   * @param rows - All kernels.
   * @param seen - Ids of those whose share went back while the page was open.
   */
  of(rows: readonly IAllocation[], seen: ReadonlySet<string>): Map<string, IMessage> {
    const found = new Map<string, IMessage>();
    const groups: [Kind, IAllocation[]][] = [
      ['waiting', rows.filter(row => row.queue !== null)],
      ['warning', rows.filter(goesBack)],
      ['released', rows.filter(row => row.state === 'released' && seen.has(row.kernel_id))]
    ];
    for (const [kind, group] of groups) {
      const [first] = group;
      if (first !== undefined) {
        found.set(kind, group.length === 1 ? this._one(kind, first) : this._many(kind, group));
      }
    }
    for (const row of rows.filter(each => each.state === 'failed')) {
      found.set(`failed:${row.kernel_id}`, this._one('failed', row));
    }
    return found;
  }

  /** A message about something that has happened, which goes by itself; null where nothing has. */
  event({ before, now }: IChange): IMessage | null {
    const waited = before?.state === 'queued' || before?.state === 'waking';
    if (!waited || now.state !== 'active' || now.share === null) {
      return null;
    }
    const text = this._trans.__('%1 has its share.', name(now));
    return { kind: 'arrived', type: 'success', text, kernels: [now.kernel_id], buttons: [] };
  }

  private _one(kind: Kind, row: IAllocation): IMessage {
    const trans = this._trans;
    const who = name(row);
    const about = { kind, kernels: [row.kernel_id] };
    const takeFree = { label: trans.__('Take What Is Free'), command: CommandIDs.takeFree };
    const without = { label: trans.__('Start Without a GPU'), command: CommandIDs.withoutGpu };
    switch (kind) {
      case 'waiting': {
        const { position, of } = row.queue ?? { position: 1, of: 1 };
        const place = trans.__('%1 waits for a share: %2 of %3.', who, position, of);
        const stop = { label: trans.__('Stop Waiting'), command: CommandIDs.giveBack };
        const text = joined(place, row.reason);
        const buttons = [stop, takeFree, without];
        return { ...about, type: 'in-progress', text, buttons };
      }
      case 'failed': {
        const text = trans.__('%1 has no share: %2', who, row.reason);
        return { ...about, type: 'error', text, buttons: [takeFree, without] };
      }
      case 'warning': {
        // The message stands still, so it names a time that stays true.
        const at = clock(row.next?.at ?? '');
        const text = trans.__('The share of %1 goes back at %2.', who, at);
        return { ...about, type: 'warning', text, buttons: [this._keep()] };
      }
      default: {
        const text = joined(trans.__('The share of %1 is given back.', who), row.reason);
        return { ...about, type: 'info', text, buttons: [] };
      }
    }
  }

  private _many(kind: Kind, rows: readonly IAllocation[]): IMessage {
    const trans = this._trans;
    const about = { kind, kernels: rows.map(row => row.kernel_id) };
    const who = this._names(rows);
    switch (kind) {
      case 'waiting': {
        const text = trans.__('%1 kernels wait for a share: %2.', rows.length, who);
        const show = { label: trans.__('Show'), command: CommandIDs.show };
        return { ...about, type: 'in-progress', text, buttons: [show] };
      }
      case 'warning': {
        const times = rows.map(row => row.next?.at ?? '').sort();
        const at = clock(times[0] ?? '');
        const text = trans.__('%1 shares go back, the first at %2: %3.', rows.length, at, who);
        return { ...about, type: 'warning', text, buttons: [this._keep()] };
      }
      default: {
        const text = trans.__('%1 shares are given back: %2.', rows.length, who);
        return { ...about, type: 'info', text, buttons: [] };
      }
    }
  }

  private _keep(): IButton {
    return { label: this._trans.__('Keep'), command: CommandIDs.keep, accent: true };
  }

  private _names(rows: readonly IAllocation[]): string {
    const named = rows.slice(0, NAMED).map(name).join(', ');
    const more = rows.length - NAMED;
    return more > 0 ? this._trans._n('%2 and %1 more', '%2 and %1 more', more, named) : named;
  }
}

function goesBack(row: IAllocation): boolean {
  return row.state === 'idle' && row.next?.action === 'release' && row.keep_until === null;
}

function name(row: IAllocation): string {
  return row.path === null ? row.kernel_name : fileName(row.path);
}

function joined(...sentences: string[]): string {
  return sentences.filter(Boolean).join(' ');
}
