import { nullTranslator } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';
import { Signal } from '@lumino/signaling';
import { Actions } from '../actions';
import { gpuIcon } from '../icon';
import { RunningShares } from '../running';
import type { IAllocation, IKept, IShares } from '../tokens';
import { row } from './rows';

const trans = nullTranslator.load('');

function section(rows: IAllocation[], kept: Record<string, IKept> = {}) {
  const released: string[] = [];
  const shares = {
    allocations: new Map(rows.map(each => [each.kernel_id, each])),
    changed: new Signal({}),
    keptByRelease: (id: string) => Promise.resolve(kept[id] ?? { how: 'in-place', lost: [] }),
    release: (id: string) => {
      released.push(id);
      return Promise.resolve();
    }
  } as unknown as IShares;
  const actions = new Actions(shares, trans);
  const running = new RunningShares(
    shares,
    new CommandRegistry(),
    gpuIcon,
    actions,
    trans,
    () => undefined
  );
  return { running, released };
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) {
    await Promise.resolve();
  }
}

describe('the panel of running sessions', () => {
  it('gives all shares back, as the server says that nothing is lost', async () => {
    // What a kernel keeps is known only once it was asked: until then it says `none`.
    const rows = ['a', 'b', 'c'].map(kernel_id => row({ kernel_id }));
    const { running, released } = section(rows, { b: { how: 'none', lost: ['x'] } });
    running.shutdownAll();
    await settled();
    expect(released).toEqual(['a', 'c']);
  });

  it('has nothing to press where a share is given back already', () => {
    const { running } = section([
      row({ kernel_id: 'a', state: 'released', share: null }),
      row({ kernel_id: 'b' }),
      row({ kernel_id: 'c', state: 'queued', share: null, queue: { position: 1, of: 1 } })
    ]);
    const items = running.running();
    expect(items.map(item => item.shutdown !== undefined)).toEqual([false, true, true]);
    expect(items.slice(1).map(item => running.shutdownLabel(item))).toEqual([
      'Give Back',
      'Stop Waiting'
    ]);
  });
});
