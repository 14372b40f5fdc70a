import { Notification } from '@jupyterlab/apputils';
import { PathExt } from '@jupyterlab/coreutils';
import type { ServerConnection } from '@jupyterlab/services';
import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import type { Sentences } from './sentences';
import { ask } from './server';
import type { IChoice, IOnce, ISizeChoices } from './tokens';

const PLACE = ['gpu-share', 'choices'];

/**
 * What a choice is remembered under: a notebook's path, a console's folder and name. A session
 * starts under a path that is made up, but always in the same folder and by the same name.
 */
export function choiceKey(path: string, name: string): string {
  return PathExt.join(PathExt.dirname(path), name);
}

/** Have the server know the default size that a user has set. */
export function followDefault(settings: ISettingRegistry.ISettings, choices: ISizeChoices): void {
  const wanted = (): string => {
    const value = settings.get('defaultSize').composite;
    return typeof value === 'string' ? value.trim() : '';
  };
  let known = '';
  const follow = (): void => {
    const size = wanted();
    if (size !== known) {
      known = size;
      choices.set('', size || null).catch((error: unknown) => {
        const message = error instanceof Error ? error.message : String(error);
        Notification.error(message, { autoClose: false });
      });
    }
  };
  settings.changed.connect(follow);
  follow();
}

/** Choices that the server keeps: they are the same in every browser. */
export class SizeChoices implements ISizeChoices {
  /**
   * @param _sentences - Without it, what the server says stays English.
   */
  constructor(
    private readonly _settings: ServerConnection.ISettings,
    private readonly _sentences?: Sentences
  ) {}

  async get(path: string): Promise<IChoice> {
    return ask<IChoice>(this._settings, PLACE, { query: { path } });
  }

  async set(path: string, size: string | null, kernelspec?: string): Promise<void> {
    await this._put({ path, size, kernelspec });
  }

  async check(size: string, kernelspec?: string): Promise<void> {
    await this._put({ size, kernelspec, dry_run: true });
  }

  async once(kernelId: string, kernel: IOnce): Promise<void> {
    const place = ['gpu-share', 'requests', kernelId];
    await ask(this._settings, place, { method: 'PUT', body: kernel });
  }

  private async _put(body: unknown): Promise<void> {
    await ask(this._settings, PLACE, { method: 'PUT', body, sentences: this._sentences });
  }
}
