import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import type { ILauncher } from '@jupyterlab/launcher';
import type { Contents } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import { DisposableSet } from '@lumino/disposable';
import { line } from './actions';
import { gpuIcon } from './icon';
import type { IOffer, IShares, ISizeChoices } from './tokens';
import { Words } from './words';

export const NEW_NOTEBOOK = 'gpu-share:new-notebook';

/** Register the command that makes a notebook with a size, in the folder that is named. */
export function addNewNotebook(
  app: JupyterFrontEnd,
  shares: IShares,
  choices: ISizeChoices,
  trans: TranslationBundle
): void {
  const words = new Words(trans);
  const offer = (size: unknown): IOffer | undefined =>
    shares.sizes?.sizes.find(each => each.size === size);
  app.commands.addCommand(NEW_NOTEBOOK, {
    label: args => {
      const found = offer(args['size']);
      return found === undefined ? trans.__('New Notebook on a GPU') : words.offer(found);
    },
    caption: args => {
      const found = offer(args['size']);
      return found === undefined ? trans.__('Make a notebook with a share') : words.about(found);
    },
    icon: gpuIcon,
    describedBy: {
      args: {
        type: 'object',
        properties: {
          size: { type: 'string', description: 'Size, such as 1/4; the default if left out.' },
          cwd: { type: 'string', description: 'Folder of the notebook.' },
          kernelName: { type: 'string', description: 'Kernelspec; the default if left out.' }
        }
      }
    },
    execute: async args => {
      const { kernelspecs } = app.serviceManager;
      await kernelspecs.ready;
      const given = args['kernelName'];
      const name = typeof given === 'string' ? given : kernelspecs.specs?.default;
      const size = typeof args['size'] === 'string' ? args['size'] : null;
      try {
        if (size !== null) {
          await choices.check(size, name);
        }
      } catch (error) {
        // No notebook is left that nobody wants.
        Notification.error(line(error, trans), { autoClose: false });
        return;
      }
      const made = (await app.commands.execute('docmanager:new-untitled', {
        path: args['cwd'] ?? '',
        type: 'notebook'
      })) as Contents.IModel;
      if (size !== null) {
        await choices.set(made.path, size, name);
      }
      return app.commands.execute('docmanager:open', {
        path: made.path,
        factory: 'Notebook',
        kernel: { name }
      }) as Promise<unknown>;
    }
  });
}

/** Keep a launcher card for each size that is offered; the returned set takes them away. */
export async function addCards(
  launcher: ILauncher,
  shares: IShares,
  trans: TranslationBundle
): Promise<DisposableSet> {
  const { sizes } = await shares.refreshSizes();
  const cards = new DisposableSet();
  sizes.forEach(({ size }, rank) => {
    cards.add(
      launcher.add({ command: NEW_NOTEBOOK, args: { size }, category: trans.__('GPU'), rank })
    );
  });
  return cards;
}
