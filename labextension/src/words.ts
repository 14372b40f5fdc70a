import type { TranslationBundle } from '@jupyterlab/translation';
import type { IAllocation, IGpu, IKept, IOffer, IShare, Isolation, State } from './tokens';

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
const GIB = 2 ** 30;

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

/** Bytes in GiB, with a decimal below 100. */
export function gibibytes(bytes: number): string {
  return `${number(bytes / GIB)} GiB`;
}

function number(value: number): string {
  return String(value < 100 ? Math.round(value * 10) / 10 : Math.round(value));
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

/** The hour and minute of a moment, as it is written in the language of the page. */
export function clock(at: string): string {
  const language = document.documentElement.lang || [];
  const form = { hour: '2-digit', minute: '2-digit' } as const;
  try {
    return new Date(at).toLocaleTimeString(language, form);
  } catch {
    return new Date(at).toLocaleTimeString([], form); // a language that the browser does not know
  }
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

  /** What was granted, and where. */
  share(share: IShare): string {
    const models = [...new Set(share.devices.map(device => shortModel(device.model)))];
    const nodes = [...new Set(share.devices.map(device => device.node))];
    const memory = gibibytes(share.memory_bytes);
    const place = this._trans.__('%1 of %2 on %3', memory, models.join(', '), nodes.join(', '));
    // Some models say it in their name already.
    const unsaid = share.simulated && !models.every(model => model.includes('simulated'));
    return unsaid ? this._trans.__('%1 (simulated)', place) : place;
  }

  /** What keeps others out of the share, and it out of theirs. */
  isolation(isolation: Isolation): string {
    const trans = this._trans;
    const said: Readonly<Record<Isolation, string>> = {
      hardware: trans.__('A part of the chip of its own: nobody else can use it or slow it down.'),
      driver: trans.__('The driver enforces the memory limit.'),
      mps: trans.__('NVIDIA MPS enforces the memory limit.'),
      preload: trans.__('A library in the kernel enforces the memory limit.'),
      framework: trans.__(
        'PyTorch and JAX keep to the memory limit; use above it is warned about, then the cell stops.'
      ),
      none: trans.__('Nothing enforces a memory limit: others can take what you do not use.')
    };
    return said[isolation];
  }

  /** What happens to the share next, and when. */
  next(row: IAllocation, now: number): string {
    const trans = this._trans;
    if (row.keep_until !== null) {
      return trans.__('Kept until %1.', clock(row.keep_until));
    }
    if (row.next !== null) {
      const time = countdown(row.next.at, now);
      switch (row.next.action) {
        case 'release':
          return trans.__('Goes back in %1 unless a cell runs.', time);
        case 'warn':
          return trans.__('A warning comes in %1 unless a cell runs; then it goes back.', time);
        case 'cull':
          return trans.__('The kernel ends in %1 unless a cell runs.', time);
        default:
          return trans.__('%1 in %2.', row.next.action, time);
      }
    }
    return row.state === 'released' ? trans.__('Running a cell takes a share again.') : '';
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
    return offer.available ? text : this._trans.__('%1 (not now)', text);
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
    return offer.why === null ? purpose : this._trans.__('Not now: %1', offer.why);
  }

  /** How much of a number of GPUs of one model is free. */
  free(gpus: readonly IGpu[]): string {
    const free = gpus.reduce((sum, gpu) => sum + gpu.free_bytes / (gpu.memory_bytes || 1), 0);
    return this._trans.__('%1 of %2', quarters(free), gpus.length);
  }
}

/** A number of GPUs to the quarter below: what is said to be free can be had. */
function quarters(value: number): string {
  const fourths = Math.floor(value * 4 + 1e-6);
  const part = ['', '¼', '½', '¾'][fourths % 4] ?? '';
  const whole = Math.floor(fourths / 4);
  return whole === 0 && part ? part : `${whole}${part}`;
}
