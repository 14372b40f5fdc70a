import type { TranslationBundle } from '@jupyterlab/translation';
import { amount, clock, number, percent } from './format';
import { span } from './spans';
import { shortSize } from './words';

/** A sentence as the server tells it; `code` is null where the words are not its own. */
export interface ISentence {
  readonly code: string | null;
  readonly values: Readonly<Record<string, unknown>>;
  /** Complete, in English. */
  readonly text: string;
}

/** Whether something is a list of sentences. */
export function areSentences(value: unknown): value is ISentence[] {
  return (
    Array.isArray(value) &&
    value.every(
      each =>
        typeof each === 'object' && each !== null && typeof (each as ISentence).text === 'string'
    )
  );
}

/** Values of a sentence of the server, written in the reader's language. */
export class Values {
  constructor(
    private readonly _values: Readonly<Record<string, unknown>>,
    private readonly _trans: TranslationBundle,
    private readonly _tell: (sentences: readonly ISentence[]) => string
  ) {}

  text(name: string): string {
    const value = this._values[name];
    if (typeof value !== 'string') {
      throw new TypeError(name);
    }
    return value;
  }

  size(name: string): string {
    return shortSize(this.text(name));
  }

  clock(name: string): string {
    return clock(this.text(name));
  }

  number(name: string): string {
    return number(this._number(name));
  }

  bytes(name: string): string {
    return amount(this._number(name));
  }

  percent(name: string): string {
    return percent(this._number(name));
  }

  /** A length of time, given in seconds. */
  span(name: string): string {
    const seconds = this._number(name);
    // To the nearest, as nothing is counted down here.
    const rounded = seconds < 59.5 ? Math.round(seconds) : Math.round(seconds / 60) * 60;
    return span(rounded * 1000, this._trans);
  }

  said(name: string): string {
    return this._said(this._values[name]);
  }

  list(name: string): string {
    const values = this._values[name];
    if (!Array.isArray(values)) {
      throw new TypeError(name);
    }
    return values.map(each => this._said(each)).join(', ');
  }

  private _said(value: unknown): string {
    if (!areSentences(value)) {
      throw new TypeError('no sentences');
    }
    return this._tell(value);
  }

  private _number(name: string): number {
    const value = this._values[name];
    if (typeof value !== 'number') {
      throw new TypeError(name);
    }
    return value;
  }
}
