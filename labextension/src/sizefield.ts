import type { TranslationBundle } from '@jupyterlab/translation';
import { UUID } from '@lumino/coreutils';
import { Widget } from '@lumino/widgets';
import type { ISizes } from './tokens';
import { shortSize, type Words } from './words';

const DEFAULT = 'default';
const OTHER = 'other';
const REFUSED = 'jp-mod-refused';

/** What a size is picked for. */
export interface IPick {
  /** The size that is selected at first; null for the default. */
  size: string | null;
  /** What the default is; null where a size has to be named. */
  standard: string | null;
  /** Why nothing can be picked; null where it can. */
  locked: string | null;
}

/** A labelled choice of a size, with a line that says what the choice means now. */
export class SizeField extends Widget {
  /**
   * @param _sizes - What is offered; null where that is still asked for.
   */
  constructor(
    private _sizes: ISizes | null,
    private readonly _words: Words,
    private readonly _trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-GpuShare-sizeField');
    // The tool that extracts texts finds those of `trans` and `this._trans`.
    const trans = _trans;
    const label = document.createElement('label');
    label.textContent = trans.__('Share of a GPU');
    label.htmlFor = this._select.id = `jp-GpuShare-${UUID.uuid4()}`;
    this._other.type = 'text';
    this._other.placeholder = '10GiB';
    this._other.setAttribute('aria-label', trans.__('Other size, such as 10GiB or 1/3'));
    this._about.className = 'jp-GpuShare-about';
    this._about.id = `jp-GpuShare-${UUID.uuid4()}`;
    this._about.setAttribute('aria-live', 'polite');
    for (const input of [this._select, this._other]) {
      input.setAttribute('aria-describedby', this._about.id);
      input.addEventListener('input', () => this.refuse(null));
    }
    this.node.append(label, this._select, this._other, this._about);
  }

  /** Offer sizes for something else than before. */
  offer(pick: IPick): void {
    this._pick = pick;
    this._fill(pick.size);
    this._select.disabled = this._other.disabled = pick.locked !== null;
    this.refuse(null);
  }

  /** Offer what is known by now. What is picked stays so, and why it is refused. */
  know(sizes: ISizes): void {
    const { size } = this;
    this._sizes = sizes;
    this._fill(size);
    if (!this._about.classList.contains(REFUSED)) {
      this.refuse(null);
    }
  }

  private _fill(size: string | null): void {
    const options = optionsOf(this._sizes, { ...this._pick, size }, this._words, this._trans);
    this._select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    const value = selected(options, size);
    this._select.value = value;
    this._other.value = value === OTHER ? (size ?? '') : '';
  }

  /** The size that is picked; null for the default, empty where none is written. */
  get size(): string | null {
    switch (this._select.value) {
      case DEFAULT:
        return null;
      case OTHER:
        return this._other.value.trim();
      default:
        return this._select.value;
    }
  }

  /** Say why the size that is picked cannot be had; null takes that back. */
  refuse(reason: string | null): void {
    const other = this._select.value === OTHER;
    const input = other ? this._other : this._select;
    for (const each of [this._select, this._other]) {
      each.setAttribute('aria-invalid', String(reason !== null && each === input));
    }
    this._other.hidden = !other;
    this._about.classList.toggle(REFUSED, reason !== null);
    this._about.textContent = reason ?? this._pick.locked ?? this._meaning();
    if (reason !== null) {
      input.focus();
    }
  }

  /** What the size that is picked means now. */
  private _meaning(): string {
    if (this._sizes === null) {
      return this._trans.__('Asking for the sizes…');
    }
    const size = this._select.value === DEFAULT ? this._pick.standard : this._select.value;
    const offer = this._sizes.sizes.find(each => each.size === size);
    return offer === undefined ? '' : this._words.about(offer);
  }

  private _pick: IPick = { size: null, standard: null, locked: null };
  private readonly _select = document.createElement('select');
  private readonly _other = document.createElement('input');
  private readonly _about = document.createElement('div');
}

/** Values and texts of the options. */
export function optionsOf(
  sizes: ISizes | null,
  { size, standard }: IPick,
  words: Words,
  trans: TranslationBundle
): [string, string][] {
  const offers = sizes?.sizes ?? [];
  const options: [string, string][] = offers.map(each => [each.size, words.offer(each)]);
  if (standard !== null) {
    options.unshift([DEFAULT, trans.__('Default (%1)', shortSize(standard))]);
  }
  if (sizes !== null && !sizes.only_offered) {
    options.push([OTHER, trans.__('Other size…')]);
  } else if (size !== null && !options.some(([value]) => value === size)) {
    // What a kernel holds is shown, even if nobody could pick it any more.
    options.push([size, shortSize(size)]);
  }
  return options;
}

function selected(options: readonly [string, string][], size: string | null): string {
  const values = options.map(([value]) => value);
  const wanted = size ?? DEFAULT;
  const found = [wanted, OTHER].find(value => values.includes(value)) ?? values[0] ?? '';
  return size === null && found === OTHER ? (values[0] ?? '') : found;
}
