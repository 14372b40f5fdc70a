import type { TranslationBundle } from '@jupyterlab/translation';
import { UUID } from '@lumino/coreutils';
import { Widget } from '@lumino/widgets';
import type { ISizes } from './tokens';
import { shortSize, type Words } from './words';

const DEFAULT = 'default';
const OTHER = 'other';

/** A labelled choice of a size, with a line that says what the choice means now. */
export class SizeField extends Widget {
  /**
   * @param sizes - What is offered.
   * @param chosen - The size that is selected at first; null for the default.
   */
  constructor(
    private readonly _sizes: ISizes,
    chosen: string | null,
    private readonly _words: Words,
    trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-GpuShare-sizeField');
    const label = document.createElement('label');
    label.textContent = trans.__('Share of a GPU');
    label.htmlFor = this._select.id = `jp-GpuShare-${UUID.uuid4()}`;
    const standard = _sizes.default;
    const options: [string, string][] = _sizes.sizes.map(each => [each.size, _words.offer(each)]);
    if (standard !== null) {
      options.unshift([DEFAULT, trans.__('Default (%1)', shortSize(standard))]);
    }
    if (!_sizes.only_offered) {
      options.push([OTHER, trans.__('Other size…')]);
    }
    for (const [value, text] of options) {
      this._select.add(new Option(text, value));
    }
    this._other.type = 'text';
    this._other.placeholder = '10GiB';
    this._other.setAttribute('aria-label', trans.__('Other size, such as 10GiB or 1/3'));
    this._about.className = 'jp-GpuShare-about';
    this._about.setAttribute('aria-live', 'polite');
    this._select.addEventListener('change', () => this._show());
    this.node.append(label, this._select, this._other, this._about);
    this._choose(chosen);
    this._show();
  }

  /** The size that is chosen; null for the default. */
  get size(): string | null {
    switch (this._select.value) {
      case DEFAULT:
        return null;
      case OTHER:
        return this._other.value.trim() || null;
      default:
        return this._select.value;
    }
  }

  /** Allow a choice, or say why there is none. */
  allow(reason: string | null): void {
    this._refused = reason;
    this._select.disabled = this._other.disabled = reason !== null;
    this._show();
  }

  private _choose(size: string | null): void {
    const values = [...this._select.options].map(option => option.value);
    if (size !== null && values.includes(size)) {
      this._select.value = size;
    } else if (size !== null && values.includes(OTHER)) {
      this._select.value = OTHER;
      this._other.value = size;
    }
  }

  private _show(): void {
    const value = this._select.value === DEFAULT ? this._sizes.default : this._select.value;
    const offer = this._sizes.sizes.find(each => each.size === value);
    this._other.hidden = this._select.value !== OTHER;
    const about = offer === undefined ? '' : this._words.about(offer);
    this._about.textContent = this._refused ?? about;
  }

  private _refused: string | null = null;
  private readonly _select = document.createElement('select');
  private readonly _other = document.createElement('input');
  private readonly _about = document.createElement('div');
}
