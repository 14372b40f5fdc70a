import { PathExt } from '@jupyterlab/coreutils';
import { SessionAPI, type Kernel, type ServerConnection, type Session } from '@jupyterlab/services';
import { UUID } from '@lumino/coreutils';
import { ask, Refusal } from './server';
import type { ISizeChoices } from './tokens';

/**
 * What a choice is remembered under: a notebook's path, a console's folder and name. A session
 * starts under a path that is made up, but always in the same folder and by the same name.
 */
export function choiceKey(path: string, name: string): string {
  return PathExt.join(PathExt.dirname(path), name);
}

type Update = Parameters<SessionAPI.SessionAPIClient['update']>[0];

/** Sees every start of a kernel, and has it start with the size that was chosen. */
export class SizedSessions extends SessionAPI.SessionAPIClient {
  constructor(
    private readonly _settings: ServerConnection.ISettings,
    private readonly _choices: ISizeChoices
  ) {
    super({ serverSettings: _settings });
  }

  override async listRunning(): Promise<Session.IModel[]> {
    return (await super.listRunning()).map(model => this._seen(model));
  }

  override async getModel(id: string): Promise<Session.IModel> {
    return this._seen(await super.getModel(id));
  }

  override async startNew(options: Session.ISessionOptions): Promise<Session.IModel> {
    const key = choiceKey(options.path, options.name);
    const kernel: Partial<Kernel.IModel> = options.kernel ?? {};
    const fresh = kernel.name !== undefined && kernel.id === undefined;
    const id = fresh ? await this._request(key, kernel.name) : null;
    const sized = id === null ? options : { ...options, kernel: { ...kernel, id } };
    return this._seen(await super.startNew(sized));
  }

  override async update(model: Update): Promise<Session.IModel> {
    const before = this._keys.get(model.id);
    const name = model.kernel?.name;
    const fresh = before !== undefined && name !== undefined && model.kernel?.id === undefined;
    const id = fresh ? await this._request(before, name) : null;
    const after = this._seen(
      id === null ? await super.update(model) : await this._move(model, { id, name: name ?? '' })
    );
    const key = choiceKey(after.path, after.name);
    const size = before === undefined ? null : this._choices.get(before);
    if (before !== key && size !== null) {
      // A notebook that is renamed is the same notebook.
      this._choices.set(key, size);
    }
    return after;
  }

  private _seen(model: Session.IModel): Session.IModel {
    this._keys.set(model.id, choiceKey(model.path, model.name));
    return model;
  }

  /** Ask for the size that was chosen, and return the id to start with; null without a choice. */
  private async _request(key: string, name?: string): Promise<string | null> {
    const size = this._choices.get(key);
    if (size === null) {
      return null;
    }
    const id = UUID.uuid4();
    const body = { size, path: key, name };
    try {
      await ask(this._settings, ['gpu-share', 'requests', id], { method: 'PUT', body });
      return id;
    } catch (error) {
      if (error instanceof Refusal && error.status === 404) {
        // The server's part is not there: the kernel starts as it would without us.
        return null;
      }
      this._choices.set(key, null);
      throw error;
    }
  }

  /** Start a kernel, and have a session change to it: a change cannot name an id of our own. */
  private async _move(
    model: Update,
    kernel: { id: string; name: string }
  ): Promise<Session.IModel> {
    const path = this._keys.get(model.id) ?? '';
    await ask(this._settings, ['api', 'kernels'], {
      method: 'POST',
      body: { name: kernel.name, kernel_id: kernel.id, path }
    });
    try {
      return await super.update({ ...model, kernel: { id: kernel.id } });
    } catch (error) {
      await ask(this._settings, ['api', 'kernels', kernel.id], { method: 'DELETE' }).catch(
        () => undefined
      );
      throw error;
    }
  }

  private readonly _keys = new Map<string, string>();
}
