import { nullTranslator } from '@jupyterlab/translation';
import { CommandIDs } from '../commands';
import { Messages } from '../messages';
import type { IAllocation } from '../tokens';
import { row } from './rows';

const messages = new Messages(nullTranslator.load(''));
const NOBODY: ReadonlySet<string> = new Set();

function waiting(name: string, position: number): IAllocation {
  const queue = { position, of: 9 };
  const reason = 'It needs 60 GiB.';
  return row({
    kernel_id: name,
    path: `${name}.ipynb`,
    state: 'queued',
    queue,
    reason,
    share: null
  });
}

function leaving(name: string, at: string): IAllocation {
  return row({
    kernel_id: name,
    path: `${name}.ipynb`,
    state: 'idle',
    next: { action: 'release', at }
  });
}

describe('what is told', () => {
  it('is nothing of kernels that are well', () => {
    expect(
      messages.of([row(), row({ state: 'idle' }), row({ state: 'starting' })], NOBODY)
    ).toEqual(new Map());
  });

  it('has the ways out of a queue', () => {
    const found = messages.of([waiting('one', 2)], NOBODY).get('waiting');
    expect(found?.text).toBe('one.ipynb waits for a share: 2 of 9. It needs 60 GiB.');
    expect(found?.buttons.map(each => each.command)).toEqual([
      CommandIDs.giveBack,
      CommandIDs.takeFree,
      CommandIDs.withoutGpu
    ]);
  });

  it('is one message for all that wait', () => {
    const rows = ['a', 'b', 'c', 'd', 'e'].map((name, index) => waiting(name, index + 1));
    const found = messages.of(rows, NOBODY);
    expect([...found.keys()]).toEqual(['waiting']);
    expect(found.get('waiting')?.text).toBe(
      '5 kernels wait for a share: a.ipynb, b.ipynb, c.ipynb and 2 more.'
    );
    expect(found.get('waiting')?.kernels).toEqual(['a', 'b', 'c', 'd', 'e']);
  });

  it('is one warning for all that go back, with the first time', () => {
    const rows = [leaving('a', '2026-03-01T12:30:00Z'), leaving('b', '2026-03-01T12:10:00Z')];
    const found = messages.of(rows, NOBODY);
    expect(found.size).toBe(1);
    expect(found.get('warning')?.text).toMatch(/^2 shares go back, the first at .*:10.*: a\.ipynb/);
  });

  it('is no warning of what is kept', () => {
    const kept = { ...leaving('a', '2026-03-01T12:30:00Z'), keep_until: '2026-03-01T13:30:00Z' };
    expect(messages.of([kept], NOBODY).size).toBe(0);
  });

  it('is that a share went back only to who saw it go', () => {
    const gone = row({ state: 'released', share: null, reason: 'It was not used.' });
    expect(messages.of([gone], NOBODY).size).toBe(0);
    expect(messages.of([gone], new Set(['one'])).get('released')?.text).toBe(
      'The share of one.ipynb is given back. It was not used.'
    );
  });

  it('is why a start failed, with the ways out', () => {
    const failed = row({ state: 'failed', share: null, reason: 'There is no GPU.' });
    const found = messages.of([failed], NOBODY).get('failed:one');
    expect(found?.text).toBe('one.ipynb has no share: There is no GPU.');
    expect(found?.buttons.map(each => each.command)).toEqual([
      CommandIDs.takeFree,
      CommandIDs.withoutGpu
    ]);
  });

  it('is that a share has come after waiting, not after each start', () => {
    expect(messages.event({ before: waiting('one', 1), now: row() })?.text).toBe(
      'one.ipynb has its share.'
    );
    expect(messages.event({ before: row({ state: 'starting' }), now: row() })).toBeNull();
    expect(messages.event({ before: null, now: row() })).toBeNull();
    expect(
      messages.event({ before: waiting('one', 1), now: row({ state: 'released' }) })
    ).toBeNull();
  });
});
