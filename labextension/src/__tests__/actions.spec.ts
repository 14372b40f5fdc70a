import { Notification } from '@jupyterlab/apputils';
import { ServerConnection } from '@jupyterlab/services';
import { nullTranslator } from '@jupyterlab/translation';
import { Actions } from '../actions';
import type { IAllocation, IOffer, IShares } from '../tokens';
import { offer, row, sizes } from './rows';

const trans = nullTranslator.load('');

function acting(offers: IOffer[] = []) {
  const done: string[] = [];
  const shares = {
    sizesFor: () => Promise.resolve(sizes(offers)),
    resize: (id: string, size: string) => Promise.resolve(void done.push(`resize ${id} ${size}`)),
    release: (id: string) => Promise.resolve(void done.push(`release ${id}`))
  } as unknown as IShares;
  const again = (failed: IAllocation, size: string): Promise<void> =>
    Promise.resolve(void done.push(`start ${failed.path} ${size}`));
  return { actions: new Actions(shares, trans, again), done };
}

describe('Actions', () => {
  beforeEach(() => Notification.dismiss());

  it('have a kernel that waits go on with what is free', async () => {
    const { actions, done } = acting([
      offer('1', { available: false }),
      offer('1/4'),
      offer('1/8')
    ]);
    await actions.takeFree(row({ state: 'queued', queue: { position: 1, of: 1 } }));
    expect(done).toEqual(['resize one 1/4']);
  });

  it('start a kernel anew whose start has failed', async () => {
    const { actions, done } = acting();
    await actions.start(row({ state: 'failed' }), '0');
    expect(done).toEqual(['start folder/one.ipynb 0']);
  });

  it('say so where nothing is free', async () => {
    const { actions, done } = acting([offer('1/4', { available: false }), offer('0')]);
    await actions.takeFree(row({ state: 'failed' }));
    expect(done).toEqual([]);
    expect(Notification.manager.notifications[0]?.message).toContain('No share of a GPU is free');
  });

  it('do nothing with a share that is given back already', async () => {
    const { actions, done } = acting();
    await actions.giveBack(row({ state: 'released', share: null }));
    expect(done).toEqual([]);
    expect(Notification.manager.count).toBe(0);
  });

  it('say that the server does not answer, whatever is asked of it', async () => {
    const fails = (): Promise<never> =>
      Promise.reject(new ServerConnection.NetworkError(new TypeError('Failed to fetch')));
    const names = ['sizesFor', 'resize', 'keptByResize', 'keptByRelease', 'release', 'wake'];
    const shares = Object.fromEntries([...names, 'keep', 'report'].map(name => [name, fails]));
    const actions = new Actions(shares as unknown as IShares, trans);
    const queue = { position: 1, of: 1 };
    const asked = [
      () => actions.changeSize(row(), '1/2'),
      () => actions.takeFree(row({ state: 'queued', queue })),
      () => actions.start(row({ state: 'queued', queue }), '0'),
      () => actions.giveBack(row()),
      () => actions.wake(row({ state: 'released' })),
      () => actions.keep(row(), 30),
      () => actions.stopKeeping(row()),
      () => actions.showLost(row())
    ];
    for (const ask of asked) {
      Notification.dismiss();
      await ask();
      expect(Notification.manager.notifications[0]?.message).toContain(
        'The server does not answer'
      );
    }
  });
});
