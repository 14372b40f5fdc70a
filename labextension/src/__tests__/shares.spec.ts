import { ServerConnection, type Event } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';
import { Shares } from '../shares';
import type { IAllocation } from '../tokens';
import { row, sizes } from './rows';

const EVENT = 'https://events.jupyter.org/jupyter_gpu_share/allocation/v1';

describe('Shares', () => {
  const asked: string[] = [];
  const stream = new Signal<object, unknown>({});
  const tell = (told: IAllocation): void => stream.emit({ schema_id: EVENT, ...told });
  let shares: Shares;
  beforeEach(() => {
    asked.length = 0;
    const serverSettings = ServerConnection.makeSettings({
      baseUrl: 'http://here/',
      fetch: (request: RequestInfo | URL) => {
        const { url } = request as unknown as { url: string };
        asked.push(/gpu-share\/(\w+)/.exec(url)?.[1] ?? url);
        const body = url.includes('sizes') ? sizes([]) : [];
        return Promise.resolve(new Response(JSON.stringify(body)));
      }
    });
    const events = { stream } as unknown as Event.IManager;
    shares = new Shares({ serverSettings, events });
  });
  afterEach(() => {
    shares.dispose();
    Signal.clearData(stream);
  });

  const states = (): string[] => [...shares.allocations.values()].map(each => each.state);

  it('shows a failed start until the notebook has another kernel', () => {
    tell(row({ kernel_id: 'a', state: 'starting', share: null }));
    tell(row({ kernel_id: 'a', state: 'failed', share: null, reason: 'No GPU.' }));
    tell(row({ kernel_id: 'a', state: 'ended', share: null }));
    expect(states()).toEqual(['failed']);
    tell(row({ kernel_id: 'b', path: 'other.ipynb' }));
    expect(states()).toEqual(['failed', 'active']);
    tell(row({ kernel_id: 'c', state: 'starting', share: null }));
    expect(states()).toEqual(['active', 'starting']);
  });

  it('hides a failed start where that is wanted, and nothing else', () => {
    tell(row({ kernel_id: 'a', state: 'failed', share: null }));
    tell(row({ kernel_id: 'b', path: 'other.ipynb' }));
    shares.forget('a');
    shares.forget('b');
    expect(states()).toEqual(['active']);
  });

  it('asks for no sizes by itself', () => {
    tell(row({ kernel_id: 'a' }));
    expect(asked).not.toContain('sizes');
  });
});
