import { nullTranslator } from '@jupyterlab/translation';
import { countdown, fileName, gibibytes, shortModel, shortSize, Words } from '../words';
import { GIB, offer, row, share } from './rows';

const words = new Words(nullTranslator.load(''));
const NOW = Date.parse('2026-03-01T12:00:00Z');

describe('sizes', () => {
  it.each([
    ['1/4', '¼'],
    ['2x1/2', '2 × ½'],
    ['10GiB', '10 GiB'],
    ['1536MiB', '1536 MiB'],
    ['mig-1g.10gb', 'mig-1g.10gb'],
    ['7/16', '7/16'],
    ['0', '0']
  ])('%s is read as %s', (size, read) => {
    expect(shortSize(size)).toBe(read);
  });

  it('have a decimal only where it says something', () => {
    expect([0.25, 20, 99.96, 141.2].map(each => gibibytes(each * GIB))).toEqual([
      '0.3 GiB',
      '20 GiB',
      '100 GiB',
      '141 GiB'
    ]);
  });
});

describe('countdown', () => {
  it.each([
    ['2026-03-01T12:00:05Z', '0:05'],
    ['2026-03-01T12:04:10Z', '4:10'],
    ['2026-03-01T14:00:00Z', '2:00:00'],
    ['2026-03-01T11:00:00Z', '0:00']
  ])('to %s is %s', (at, left) => {
    expect(countdown(at, NOW)).toBe(left);
  });
});

describe('names', () => {
  it('are short', () => {
    expect(fileName('a/b/c.ipynb')).toBe('c.ipynb');
    expect(fileName('c.ipynb')).toBe('c.ipynb');
    expect(shortModel('NVIDIA A100-SXM4-80GB')).toBe('A100-SXM4-80GB');
  });
});

describe('a state', () => {
  it('says when an idle share goes back', () => {
    const next = { action: 'release', at: '2026-03-01T12:04:10Z' };
    expect(words.state(row({ state: 'idle', next }), NOW)).toBe('idle, 4:10');
    expect(words.state(row({ state: 'idle' }), NOW)).toBe('idle');
    const kept = row({ state: 'idle', keep_until: '2026-11-28T14:30:00Z' });
    expect(words.state(kept, NOW)).toMatch(/^idle, kept until \d/);
  });

  it('says the place in the queue', () => {
    const queue = { position: 2, of: 4 };
    expect(words.state(row({ state: 'queued', queue }), NOW)).toBe('waiting, 2 of 4');
    expect(words.state(row({ state: 'waking', queue }), NOW)).toBe('waiting, 2 of 4');
    expect(words.state(row({ state: 'waking' }), NOW)).toBe('waking');
  });
});

describe('a label', () => {
  it('says what is held, or asked for', () => {
    expect(words.label(row())).toBe('GPU ¼ · 20 GiB');
    expect(words.label(row({ share: null }))).toBe('GPU ¼');
    expect(words.label(row({ size: '0', share: share(0) }))).toBe('No GPU');
  });
});

describe('what is lost', () => {
  it('is said only where something is', () => {
    expect(words.lost({ how: 'in-place', lost: [] })).toBe('');
    expect(words.lost({ how: 'none', lost: ['x'] })).toContain('All variables');
    expect(words.lost({ how: 'snapshot', lost: ['x', 'y'] })).toContain('x, y');
  });
});

describe('an offer', () => {
  it('tells what waits from what a limit refuses, before it is picked', () => {
    const full = offer('1/2', { available: false, why: 'No GPU has room.' });
    const why = 'ann may have 1 GPU and now has ¾ GPU.';
    const refused = offer('1/2', { available: false, why, over_limit: true });
    expect([offer('1/2'), full, refused].map(each => words.offer(each))).toEqual([
      '½',
      '½ (not now)',
      '½ (over a limit)'
    ]);
    expect([full, refused].map(each => words.about(each))).toEqual([
      'Not now: No GPU has room.',
      why
    ]);
  });
});
