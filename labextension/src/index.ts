import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin
} from '@jupyterlab/application';
import {
  ICommandPalette,
  ISessionContextDialogs,
  IToolbarWidgetRegistry,
  SessionContextDialogs
} from '@jupyterlab/apputils';
import type { ConsolePanel } from '@jupyterlab/console';
import { ILauncher } from '@jupyterlab/launcher';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { IRunningSessionManagers } from '@jupyterlab/running';
import { IConnectionStatus } from '@jupyterlab/services';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import type { DisposableSet } from '@lumino/disposable';
import { Actions } from './actions';
import { Attention } from './attention';
import { followDefault, SizeChoices } from './choices';
import { addCommands, CommandIDs, KEEP_MINUTES } from './commands';
import { CurrentKernel, startAgain } from './current';
import { SizedDialogs } from './dialogs';
import { gpuIcon } from './icon';
import { addCards, addNewNotebook, NEW_NOTEBOOK } from './launcher';
import { otherName, type OtherName } from './named';
import { Notifications } from './notifications';
import { RunningShares } from './running';
import { Sentences } from './sentences';
import { Shares } from './shares';
import { Sidebar } from './sidebar';
import { StatusItem } from './statusbar';
import { IShares, ISizeChoices, type IAllocation } from './tokens';
import { ToolbarItem } from './toolbar';

export { IShares, ISizeChoices } from './tokens';

const DOMAIN = 'jupyter_gpu_share';

function sentences(translator: ITranslator | null): Sentences {
  return new Sentences((translator ?? nullTranslator).load(DOMAIN));
}

const choices: JupyterFrontEndPlugin<ISizeChoices> = {
  id: 'jupyter-gpu-share:choices',
  description: 'Asks the server for the size that was chosen for a notebook, and chooses it.',
  autoStart: true,
  provides: ISizeChoices,
  optional: [ISettingRegistry, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    registry: ISettingRegistry | null,
    translator: ITranslator | null
  ) => {
    const made = new SizeChoices(app.serviceManager.serverSettings, sentences(translator));
    // Nobody waits for the settings, which need not be there.
    void registry
      ?.load(choices.id)
      .then(settings => followDefault(settings, made))
      .catch(() => undefined);
    return made;
  }
};

const shares: JupyterFrontEndPlugin<IShares> = {
  id: 'jupyter-gpu-share:shares',
  description: 'Knows the GPU shares of this server’s kernels.',
  autoStart: true,
  provides: IShares,
  optional: [IConnectionStatus, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    connection: IConnectionStatus | null,
    translator: ITranslator | null
  ) =>
    new Shares({
      serverSettings: app.serviceManager.serverSettings,
      events: app.serviceManager.events,
      connection: connection ?? undefined,
      sentences: sentences(translator)
    })
};

const dialogs: JupyterFrontEndPlugin<ISessionContextDialogs> = {
  id: 'jupyter-gpu-share:dialogs',
  description: 'The Select Kernel dialog with a size.',
  autoStart: true,
  provides: ISessionContextDialogs,
  optional: [IShares, ISizeChoices, ITranslator, ISettingRegistry],
  activate: (
    app: JupyterFrontEnd,
    known: IShares | null,
    remembered: ISizeChoices | null,
    translator: ITranslator | null,
    settingRegistry: ISettingRegistry | null
  ) => {
    const own = translator ?? nullTranslator;
    const standard = { translator: own, settingRegistry };
    if (known === null || remembered === null) {
      return new SessionContextDialogs(standard);
    }
    const trans = own.load(DOMAIN);
    return new SizedDialogs({
      shares: known,
      choices: remembered,
      actions: new Actions(known, trans, undefined, otherNameIn(app)),
      trans,
      lab: own.load('jupyterlab'),
      standard
    });
  }
};

const commands: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpu-share:commands',
  description: 'Commands to change, keep, give back and wake shares.',
  autoStart: true,
  optional: [IShares, ISizeChoices, ICommandPalette, ITranslator, ISettingRegistry],
  activate: (
    app: JupyterFrontEnd,
    known: IShares | null,
    remembered: ISizeChoices | null,
    palette: ICommandPalette | null,
    translator: ITranslator | null,
    registry: ISettingRegistry | null
  ) => {
    if (known === null) {
      return;
    }
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const current = new CurrentKernel(app.shell, known);
    let usual = 60;
    const again = (row: IAllocation, size: string): Promise<void> =>
      startAgain(app, remembered, row, size);
    const actions = new Actions(known, trans, again, otherNameIn(app));
    addCommands(app.commands, known, current, actions, trans, () => usual);
    // Commands are there before the settings are read.
    void registry
      ?.load(commands.id)
      .then(settings => {
        const follow = (): void => {
          const minutes = settings.get('keepMinutes').composite;
          usual = typeof minutes === 'number' ? minutes : 60;
          app.commands.notifyCommandChanged(CommandIDs.keep);
        };
        settings.changed.connect(follow);
        follow();
      })
      .catch(() => undefined);
    if (remembered !== null) {
      addNewNotebook(app, known, remembered, trans);
      palette?.addItem({ command: NEW_NOTEBOOK, category: trans.__('GPU') });
    }
    const notify = (): void => app.commands.notifyCommandChanged();
    known.changed.connect(notify);
    current.changed.connect(notify);
    const category = trans.__('GPU');
    for (const command of [
      CommandIDs.changeSize,
      CommandIDs.stopKeeping,
      CommandIDs.giveBack,
      CommandIDs.wake,
      CommandIDs.showLost,
      CommandIDs.takeFree,
      CommandIDs.withoutGpu
    ]) {
      palette?.addItem({ command, category });
    }
    for (const minutes of KEEP_MINUTES) {
      palette?.addItem({ command: CommandIDs.keep, category, args: { minutes } });
    }
  }
};

const toolbar: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpu-share:toolbar',
  description: 'The share of a notebook’s kernel in its toolbar.',
  autoStart: true,
  requires: [IToolbarWidgetRegistry],
  optional: [IShares, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    registry: IToolbarWidgetRegistry,
    known: IShares | null,
    translator: ITranslator | null
  ) => {
    if (known === null) {
      return;
    }
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    for (const kind of ['Notebook', 'ConsolePanel']) {
      registry.addFactory<NotebookPanel | ConsolePanel>(kind, 'gpuShare', panel => {
        const { sessionContext: session } = panel;
        return new ToolbarItem({
          session,
          shares: known,
          commands: app.commands,
          trans,
          otherName: otherNameIn(app)
        });
      });
    }
  }
};

const sidebar: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpu-share:sidebar',
  description: 'A sidebar with all shares of this server’s kernels, and what is free.',
  autoStart: true,
  optional: [IShares, ILayoutRestorer, ICommandPalette, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    known: IShares | null,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    translator: ITranslator | null
  ) => {
    if (known === null) {
      return;
    }
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const current = new CurrentKernel(app.shell, known);
    const panel = new Sidebar({
      shares: known,
      current,
      commands: app.commands,
      trans,
      otherName: otherNameIn(app)
    });
    panel.id = 'jupyter-gpu-share-sidebar';
    panel.title.icon = gpuIcon;
    panel.title.caption = trans.__('GPU Shares');
    app.shell.add(panel, 'right', { rank: 600, type: 'GPU Shares' });
    restorer?.add(panel, 'gpu-shares');
    app.commands.addCommand(CommandIDs.show, {
      label: trans.__('Show GPU Shares'),
      caption: trans.__('Show all shares of your kernels, and what is free'),
      describedBy: { args: { type: 'object', properties: {} } },
      execute: () => {
        app.shell.activateById(panel.id);
        panel.node.focus();
        // The palette gives the focus back to the notebook as it closes, a moment later. Who opens
        // the panel by the keyboard goes on in it.
        return new Promise<void>(resolve => {
          setTimeout(() => {
            panel.node.focus();
            resolve();
          });
        });
      }
    });
    palette?.addItem({ command: CommandIDs.show, category: trans.__('GPU') });
  }
};

const running: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpu-share:running',
  description: 'Kernels with a share in the panel of running sessions.',
  autoStart: true,
  optional: [IShares, IRunningSessionManagers, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    known: IShares | null,
    managers: IRunningSessionManagers | null,
    translator: ITranslator | null
  ) => {
    if (known === null || managers === null) {
      return; // Notebook 7 has no such panel
    }
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const open = (path: string): void => {
      void app.commands.execute('docmanager:open', { path });
    };
    const actions = new Actions(known, trans);
    managers.add(new RunningShares(known, app.commands, gpuIcon, actions, trans, open));
  }
};

const statusBar: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpu-share:status-bar',
  description: 'The current kernel’s share in the status bar.',
  autoStart: true,
  optional: [IShares, IStatusBar, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    known: IShares | null,
    bar: IStatusBar | null,
    translator: ITranslator | null
  ) => {
    if (known === null || bar === null) {
      return; // Notebook 7 has no status bar
    }
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const current = new CurrentKernel(app.shell, known);
    const item = new StatusItem({ shares: known, current, commands: app.commands, trans });
    bar.registerStatusItem('jupyter-gpu-share:status-bar', {
      item,
      align: 'left',
      rank: 20,
      // Where no kernel has a share there is nothing to say.
      isActive: () => known.health === 'ready' && known.allocations.size > 0,
      activeStateChanged: known.changed
    });
  }
};

const notifications: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpu-share:notifications',
  description: 'Says when a share is waited for, goes back, comes or fails.',
  autoStart: true,
  optional: [IShares, ISettingRegistry, ITranslator],
  activate: async (
    app: JupyterFrontEnd,
    known: IShares | null,
    registry: ISettingRegistry | null,
    translator: ITranslator | null
  ) => {
    if (known === null) {
      return;
    }
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const settings = await registry?.load(notifications.id).catch(() => null);
    const set = (name: string): unknown => settings?.get(name).composite;
    const attention = new Attention();
    const messages = new Notifications(
      known,
      app.commands,
      attention,
      trans,
      kind => set(kind) !== false
    );
    const follow = (): void => {
      attention.desktop = set('desktop') === true;
      attention.title = set('title') === true;
      void attention.askLeave();
      messages.update();
    };
    settings?.changed.connect(follow);
    follow();
  }
};

const launcher: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpu-share:launcher',
  description: 'A section of the launcher with a card for each offered size.',
  autoStart: true,
  requires: [ISettingRegistry],
  optional: [IShares, ILauncher, ITranslator],
  activate: async (
    _: JupyterFrontEnd,
    registry: ISettingRegistry,
    known: IShares | null,
    target: ILauncher | null,
    translator: ITranslator | null
  ) => {
    if (known === null || target === null) {
      return; // Notebook 7 has no launcher
    }
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const settings = await registry.load(launcher.id);
    let cards: Promise<DisposableSet | null> = Promise.resolve(null);
    const follow = (): void => {
      const wanted = settings.get('show').composite === true;
      cards = cards.then(async old => {
        old?.dispose();
        // Without the sizes there is nothing to offer; the sidebar says what is wrong.
        return wanted ? addCards(target, known, trans).catch(() => null) : null;
      });
    };
    settings.changed.connect(follow);
    follow();
  }
};

/** What kernelspecs name, as the page knows them by then. */
function otherNameIn(app: JupyterFrontEnd): OtherName {
  return row => otherName(app.serviceManager.kernelspecs.specs, row);
}

const plugins = [
  choices,
  shares,
  dialogs,
  commands,
  toolbar,
  sidebar,
  running,
  statusBar,
  notifications,
  launcher
];

export default plugins;
