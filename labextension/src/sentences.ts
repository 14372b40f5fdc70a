import type { TranslationBundle } from '@jupyterlab/translation';
import { tellers, type Teller } from './tellers';
import { areSentences, Values, type ISentence } from './values';

/** Says what the server says in the reader's language. */
export class Sentences {
  constructor(trans: TranslationBundle) {
    this._tellers = new Map(Object.entries(tellers(trans)));
    this._trans = trans;
  }

  /** Sentences one after the other. Those that are not known here are said as they were told. */
  of(sentences: readonly ISentence[]): string {
    return sentences.map(each => this._one(each)).join(' ');
  }

  /** What the server has answered, with each text in the reader's language that has sentences. */
  into<T>(data: T): T {
    return this._into(data) as T;
  }

  private _one({ code, values, text }: ISentence): string {
    const teller = code === null ? undefined : this._tellers.get(code);
    try {
      return teller?.(new Values(values, this._trans, each => this.of(each))) ?? text;
    } catch {
      return text; // a server of another version puts other values in
    }
  }

  private _into(data: unknown): unknown {
    if (Array.isArray(data)) {
      return data.map(each => this._into(each));
    }
    if (typeof data !== 'object' || data === null) {
      return data;
    }
    const found = Object.entries(data).map(([name, value]) => [name, this._into(value)] as const);
    const said = Object.fromEntries(found) as Record<string, unknown>;
    for (const [name, value] of found) {
      const text = name.replace(/_sentences$/, '');
      const told = text !== name && typeof said[text] === 'string';
      // A text without sentences stays as it is.
      if (told && areSentences(value) && value.length > 0) {
        said[text] = this.of(value);
      }
    }
    return said;
  }

  private readonly _tellers: ReadonlyMap<string, Teller>;
  private readonly _trans: TranslationBundle;
}
