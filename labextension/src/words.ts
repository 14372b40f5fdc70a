import type { TranslationBundle } from '@jupyterlab/translation';
import { clock, gibibytes } from './format';
import type { IAllocation, IKept, IOffer, State } from './tokens';

export { clock, gibibytes } from './format';

/** Glyphs for fractions that have one. */
const VULGAR: Readonly<Record<string, string>> = {
  '1/2': '½',
  '1/3': '⅓',
  '2/3': '⅔',
  '1/4': '¼',
  '3/4': '¾',
  '1/5': '⅕',
  '2/5': '⅖',
  '3/5': '⅗',
  '4/5': '⅘',
  '1/6': '⅙',
  '5/6': '⅚',
  '1/8': '⅛',
  '3/8': '⅜',
  '5/8': '⅝',
  '7/8': '⅞'
};

/** Marks that tell states apart without colour. */
export const MARKS: Readonly<Record<State, string>> = {
  queued: '◷',
  starting: '◌',
  active: '●',
  idle: '◐',
  releasing: '◔',
  released: '○',
  waking: '◌',
  failed: '✕',
  ended: '–'
};

/** A size as short as it can be read: `¼`, `2 × ½`, `10 GiB`. */
export function shortSize(size: string): string {
  const [, count, one] = /^(\d+)x(.+)$/.exec(size) ?? [];
  if (count !== undefined && one !== undefined) {
    return `${count} × ${shortSize(one)}`;
  }
  const [, amount, unit] = /^([\d.]+)(GiB|MiB)$/.exec(size) ?? [];
  if (amount !== undefined) {
    return `${amount} ${unit}`;
  }
  return VULGAR[size] ?? size;
}

/** A GPU's name as people say it: the maker goes without saying. */
export function shortModel(model: string): string {
  return model.replace(/^NVIDIA /, '');
}

/** The last part of a path. */
export function fileName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** Minutes and seconds until a moment, never below nought. */
export function countdown(at: string, now: number): string {
  const seconds = Math.max(0, Math.ceil((Date.parse(at) - now) / 1000));
  const minutes = Math.floor(seconds / 60);
  if (minutes >= 60) {
    return `${Math.floor(minutes / 60)}:${padded(minutes % 60)}:${padded(seconds % 60)}`;
  }
  return `${minutes}:${padded(seconds % 60)}`;
}

function padded(value: number): string {
  return String(value).padStart(2, '0');
}

/** Sentences about shares in the reader's language. */
export class Words {
  constructor(private readonly _trans: TranslationBundle) {}

  /** One word, or a few, for a state. */
  state(row: IAllocation, now: number): string {
    const trans = this._trans;
    if (row.state === 'idle' && row.next?.action === 'release') {
      return trans.__('idle, %1', countdown(row.next.at, now));
    }
    if (row.state === 'idle' && row.keep_until !== null) {
      return trans.__('idle, kept until %1', clock(row.keep_until));
    }
    if (row.queue !== null && (row.state === 'queued' || row.state === 'waking')) {
      return trans.__('waiting, %1 of %2', row.queue.position, row.queue.of);
    }
    const plain: Readonly<Record<State, string>> = {
      queued: trans.__('waiting'),
      starting: trans.__('starting'),
      active: trans.__('active'),
      idle: trans.__('idle'),
      releasing: trans.__('being given back'),
      released: trans.__('given back'),
      waking: trans.__('waking'),
      failed: trans.__('failed'),
      ended: trans.__('ended')
    };
    return plain[row.state];
  }

  /** What a kernel holds, or asked for: `GPU ¼ · 20 GiB`. */
  label(row: IAllocation): string {
    if (row.size === '0') {
      return this._trans.__('No GPU');
    }
    const size = this._trans.__('GPU %1', shortSize(row.size));
    return row.share === null ? size : `${size} · ${gibibytes(row.share.memory_bytes)}`;
  }

  /** What becomes of the size that the kernelspec names, where the kernel has another one. */
  named(size: string): string {
    return this._trans.__(
      'Its kernelspec names %1: the next kernel starts with that again.',
      shortSize(size)
    );
  }

  /** What of the variables is lost; empty where nothing is. */
  lost(kept: IKept): string {
    const trans = this._trans;
    const lost = kept.lost.join(', ');
    if (kept.how === 'none') {
      return lost && trans.__('All variables of the kernel will be lost.');
    }
    return lost && trans.__('Variables are kept, but these will be lost: %1.', lost);
  }

  /** What becomes of the kernel when its size changes; empty where it is not there yet. */
  way(kept: IKept): string {
    const trans = this._trans;
    switch (kept.how) {
      case 'in-place':
        return trans.__('The kernel keeps running.');
      case 'snapshot':
        return trans.__('The kernel restarts; its variables are saved and brought back.');
      default:
        return kept.lost.length > 0 ? trans.__('The kernel restarts.') : '';
    }
  }

  /** An offer with how much it is, and whether it can be had now: `½ · 40 GiB`. */
  offer(offer: IOffer): string {
    const text = this.amount(offer);
    if (offer.available) {
      return text;
    }
    return offer.over_limit
      ? this._trans.__('%1 (over a limit)', text)
      : this._trans.__('%1 (not now)', text);
  }

  /** How much an offer is: `½ · 40 GiB`. */
  amount(offer: IOffer): string {
    if (offer.size === '0') {
      return this._trans.__('No GPU');
    }
    const size = shortSize(offer.size);
    const memory = this._memory(offer);
    return memory && memory !== size ? `${size} · ${memory}` : size;
  }

  private _memory({ memory_bytes: memory }: IOffer): string {
    if (!memory) {
      return '';
    }
    const [least, most] = memory.map(gibibytes) as [string, string];
    return least === most ? least : `${least.replace(' GiB', '')}–${most}`;
  }

  /** Why an offer cannot be had now, else what it is for. */
  about(offer: IOffer): string {
    const purpose = offer.description || (offer.name === offer.size ? '' : offer.name);
    if (offer.why === null) {
      return purpose;
    }
    return offer.over_limit ? offer.why : this._trans.__('Not now: %1', offer.why);
  }
}
