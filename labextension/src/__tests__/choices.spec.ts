import { ServerConnection } from '@jupyterlab/services';
import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Signal } from '@lumino/signaling';
import { choiceKey, followDefault, SizeChoices } from '../choices';
import { Refusal } from '../server';
import type { ISizeChoices } from '../tokens';

describe('what a choice is remembered under', () => {
  it.each([
    ['lab/one.ipynb', 'one.ipynb', 'lab/one.ipynb'],
    ['lab/8a0c0b1e', 'one.ipynb', 'lab/one.ipynb'],
    ['8a0c0b1e', 'Console 1', 'Console 1']
  ])('%s with the name %s is %s', (path, name, key) => {
    expect(choiceKey(path, name)).toBe(key);
  });
});

describe('the default of a user', () => {
  it('is told to the server when it is set, changed and taken back', () => {
    let composite = '';
    const told: unknown[] = [];
    const changed = new Signal<object, void>({});
    const settings = {
      changed,
      get: () => ({ composite })
    } as unknown as ISettingRegistry.ISettings;
    const choices = {
      set: (path: string, size: string | null) => {
        told.push([path, size]);
        return Promise.resolve();
      }
    } as unknown as ISizeChoices;
    followDefault(settings, choices);
    for (composite of ['1/2', '1/2', ' ']) {
      changed.emit();
    }
    expect(told).toEqual([
      ['', '1/2'],
      ['', null]
    ]);
  });
});

describe('SizeChoices', () => {
  const asked: [string, string, unknown][] = [];
  let answer = new Response('{}');
  const choices = new SizeChoices(
    ServerConnection.makeSettings({
      baseUrl: 'http://here/',
      fetch: async (request: RequestInfo | URL) => {
        const { url, method, body } = request as unknown as {
          url: string;
          method: string;
          body: string;
        };
        asked.push([method, url, body]);
        return Promise.resolve(answer);
      }
    })
  );

  it('asks with the path as it is', async () => {
    answer = new Response('{"path": "a b&c.ipynb", "size": "1/2", "defaults": {}}');
    expect(await choices.get('a b&c.ipynb')).toMatchObject({ size: '1/2' });
    expect(asked.pop()?.[1]).toContain('gpu-share/choices?path=a%20b%26c.ipynb');
  });

  it('says why a choice is refused', async () => {
    answer = new Response('{"message": "More than a GPU here."}', { status: 409 });
    const refused = choices.set('one.ipynb', '100GiB', 'python3');
    await expect(refused).rejects.toThrow('More than a GPU here.');
    await expect(refused).rejects.toBeInstanceOf(Refusal);
  });
});
