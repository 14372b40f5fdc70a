import { nullTranslator, type TranslationBundle } from '@jupyterlab/translation';
import { Sentences } from '../sentences';
import type { ISentence } from '../values';

const GIB = 2 ** 30;

/** A language in which each text stands in brackets. */
function bracketed(): TranslationBundle {
  const plain = nullTranslator.load('');
  return {
    ...plain,
    __: (text: string, ...values: unknown[]) => `[${plain.__(text, ...(values as string[]))}]`
  };
}

const sentences = new Sentences(bracketed());

function sentence(code: string | null, values = {}, text = 'English.'): ISentence {
  return { code, values, text };
}

describe('a sentence of the server', () => {
  beforeEach(() => {
    document.documentElement.lang = 'de';
  });

  afterEach(() => {
    document.documentElement.lang = 'en';
  });

  it('is said in the language of the page, and so are its values', () => {
    const needs = sentence('needs-room', { need: 1.5 * GIB, room: 0, whole: 80 * GIB });
    expect(sentences.of([needs])).toBe(
      '[It needs 1,5 GiB of one GPU; the emptiest has 0 GiB of 80 GiB free.]'
    );
    const goes = sentence('goes-after', { after: 5400 });
    expect(sentences.of([goes])).toBe('[It goes back after [1 h 30 min] without use.]');
    const lost = [[sentence('all-variables')], [sentence(null, {}, 'generator `g`')]];
    expect(sentences.of([sentence('share-stays-for-variables', { lost })])).toContain(
      'lose [all variables], generator `g`.'
    );
  });

  it.each([
    ['of somebody else', sentence(null)],
    ['that is not known', sentence('of-a-later-version')],
    ['without its values', sentence('goes-after')],
    ['with other values', sentence('goes-after', { after: 'soon' })]
  ])('%s stays as it was told', (_, one) => {
    expect(sentences.of([one])).toBe('English.');
  });

  it('within another is said too', () => {
    const why = [sentence('no-room', { size: '1/2' })];
    expect(sentences.of([sentence('no-room-to-resize', { size: '1', why })])).toBe(
      '[The size cannot become 1 now: [Its GPU has no room for ½.]]'
    );
  });
});

describe('an answer', () => {
  it('has each text replaced that has sentences, at any depth', () => {
    const answer = {
      rows: [{ reason: 'The kernel restarts.', reason_sentences: [sentence('restarts')] }],
      why: null,
      why_sentences: [],
      name: 'restarts'
    };
    expect(sentences.into(answer)).toEqual({
      ...answer,
      rows: [{ ...answer.rows[0], reason: '[The kernel restarts.]' }]
    });
    expect(sentences.into(null)).toBeNull();
    const bare = { reason: 'Somebody else says so.', reason_sentences: [] };
    expect(sentences.into(bare)).toEqual(bare);
  });
});
