import type { CommandRegistry } from '@lumino/commands';
import type { ReadonlyJSONObject, ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { Menu } from '@lumino/widgets';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { Actions } from './actions';
import { SizeRenderer } from './captions';
import type { CurrentKernel } from './current';
import { isStuck, waits } from './sizes';
import type { IAllocation, IShares } from './tokens';
import { Words } from './words';

/** Ids of what can be done; each takes `kernelId`, else it means the current kernel. */
export namespace CommandIDs {
  export const changeSize = 'gpu-share:change-size';
  export const keep = 'gpu-share:keep';
  export const stopKeeping = 'gpu-share:stop-keeping';
  export const giveBack = 'gpu-share:give-back';
  export const wake = 'gpu-share:wake';
  export const withoutGpu = 'gpu-share:start-without-gpu';
  export const takeFree = 'gpu-share:take-what-is-free';
  export const showLost = 'gpu-share:show-lost';
  export const forget = 'gpu-share:forget-failure';
  export const show = 'gpu-share:show';
}

/** Minutes for which a share can be kept by a click. */
export const KEEP_MINUTES = [30, 60, 240] as const;

const KERNEL = {
  kernelId: {
    type: 'string',
    description: 'Id of the kernel; the current notebook’s or console’s where it is left out.'
  }
} as const;

/**
 * Register everything that can be done with a share.
 *
 * @param usual - Minutes for which a share is kept where a command does not name any.
 */
export function addCommands(
  commands: CommandRegistry,
  shares: IShares,
  current: CurrentKernel,
  actions: Actions,
  trans: TranslationBundle,
  usual: () => number = () => 60
): void {
  const words = new Words(trans);
  const row = (args: ReadonlyPartialJSONObject): IAllocation | null => {
    const id = args['kernelId'];
    return typeof id === 'string' ? (shares.allocations.get(id) ?? null) : current.allocation;
  };
  const add = (
    id: string,
    can: (found: IAllocation) => boolean,
    act: (found: IAllocation, args: ReadonlyPartialJSONObject) => Promise<void>,
    more: Omit<CommandRegistry.ICommandOptions, 'execute'>,
    properties: Record<string, { type: string; description: string }> = {}
  ): void => {
    commands.addCommand(id, {
      ...more,
      describedBy: { args: { type: 'object', properties: { ...KERNEL, ...properties } } },
      isEnabled: args => {
        const found = shares.health === 'ready' ? row(args) : null;
        return found !== null && can(found);
      },
      execute: async args => {
        const found = row(args);
        if (shares.health === 'away') {
          actions.away();
        } else if (found !== null) {
          await act(found, args);
        }
      }
    });
  };
  add(
    CommandIDs.changeSize,
    found => found.state !== 'ended',
    (found, args) => {
      const size = args['size'];
      return actions.changeSize(found, typeof size === 'string' ? size : undefined);
    },
    {
      label: args => {
        const offer = shares.sizes?.sizes.find(each => each.size === args['size']);
        if (offer === undefined) {
          return trans.__('Change GPU Share…');
        }
        const held = row(args)?.size === offer.size;
        // Why it cannot be had now is written below it.
        return held ? trans.__('%1 (as now)', words.amount(offer)) : words.amount(offer);
      },
      caption: args => {
        const offer = shares.sizes?.sizes.find(each => each.size === args['size']);
        return offer === undefined
          ? trans.__('Pick another share of a GPU for this kernel')
          : words.about(offer);
      }
    },
    { size: { type: 'string', description: 'Size, such as 1/4 or 10GiB; asked for if left out.' } }
  );
  add(
    CommandIDs.keep,
    found => found.share !== null,
    (found, args) =>
      actions.keep(found, typeof args['minutes'] === 'number' ? args['minutes'] : usual()),
    {
      label: args => keepLabel(trans, args['minutes'], usual()),
      caption: trans.__('Keep the share for a time even if it is not used')
    },
    { minutes: { type: 'number', description: 'Minutes from now; as set if left out.' } }
  );
  add(
    CommandIDs.stopKeeping,
    found => found.keep_until !== null,
    found => actions.stopKeeping(found),
    { label: trans.__('Stop Keeping GPU Share') }
  );
  add(
    CommandIDs.giveBack,
    found => found.share !== null || waits(found),
    found => actions.giveBack(found),
    {
      label: args => {
        const found = row(args);
        return found !== null && waits(found)
          ? trans.__('Stop Waiting for GPU Share')
          : trans.__('Give Back GPU Share');
      },
      caption: trans.__('Give the share back to others; running a cell takes one again')
    }
  );
  add(
    CommandIDs.wake,
    found => found.state === 'released',
    found => actions.wake(found),
    {
      label: trans.__('Wake GPU Share'),
      caption: trans.__('Take a share again now, as running a cell does')
    }
  );
  add(
    CommandIDs.showLost,
    found => found.state !== 'failed',
    found => actions.showLost(found),
    {
      label: trans.__('Show Lost Variables'),
      caption: trans.__('Show all that is not kept when the share is given back, and why')
    }
  );
  addWaysOut(add, shares, actions, trans);
}

/** Register what helps where a start waits or has failed. */
function addWaysOut(
  add: (
    id: string,
    can: (found: IAllocation) => boolean,
    act: (found: IAllocation) => Promise<void>,
    more: Omit<CommandRegistry.ICommandOptions, 'execute'>
  ) => void,
  shares: IShares,
  actions: Actions,
  trans: TranslationBundle
): void {
  add(
    CommandIDs.withoutGpu,
    found => isStuck(found) && found.size !== '0',
    found => actions.start(found, '0'),
    {
      label: trans.__('Start Without a GPU'),
      caption: trans.__('Have this kernel start now, without a share of a GPU')
    }
  );
  add(CommandIDs.takeFree, isStuck, found => actions.takeFree(found), {
    label: trans.__('Take What Is Free'),
    caption: trans.__('Have this kernel start now, on the largest share that is free')
  });
  add(
    CommandIDs.forget,
    found => found.state === 'failed',
    found => {
      shares.forget(found.kernel_id);
      return Promise.resolve();
    },
    { label: trans.__('Hide Failed Start') }
  );
}

function keepLabel(trans: TranslationBundle, minutes: unknown, usual: number): string {
  if (typeof minutes !== 'number') {
    return trans._n('Keep GPU Share for %1 Minute', 'Keep GPU Share for %1 Minutes', usual);
  }
  return minutes < 60
    ? trans._n('Keep for %1 Minute', 'Keep for %1 Minutes', minutes)
    : trans._n('Keep for %1 Hour', 'Keep for %1 Hours', Math.round(minutes / 60));
}

/** What helps where a start waits or has failed. */
export const WAYS_OUT = [CommandIDs.takeFree, CommandIDs.withoutGpu] as const;

/** Add those commands that can run now. */
export function addPossible(
  menu: Menu,
  commands: CommandRegistry,
  args: ReadonlyJSONObject,
  wanted: readonly string[]
): void {
  for (const command of wanted) {
    if (commands.hasCommand(command) && commands.isEnabled(command, args)) {
      menu.addItem({ command, args });
    }
  }
}

/** A menu of everything that can be done with one kernel's share. */
export function shareMenu(
  commands: CommandRegistry,
  shares: IShares,
  kernelId: string,
  trans: TranslationBundle
): Menu {
  const menu = new Menu({ commands, renderer: new SizeRenderer() });
  const args = { kernelId };
  for (const { size } of shares.sizes?.sizes ?? []) {
    menu.addItem({ command: CommandIDs.changeSize, args: { ...args, size } });
  }
  menu.addItem({ command: CommandIDs.changeSize, args });
  addPossible(menu, commands, args, [...WAYS_OUT, CommandIDs.forget]);
  menu.addItem({ type: 'separator' });
  // The plugin of the commands may be disabled: an empty menu is no menu.
  if (commands.hasCommand(CommandIDs.keep)) {
    const submenu = keepMenu(commands, kernelId, trans.__('Keep GPU Share'));
    menu.addItem({ type: 'submenu', submenu });
  }
  menu.addItem({ command: CommandIDs.giveBack, args });
  menu.addItem({ command: CommandIDs.wake, args });
  addPossible(menu, commands, args, [CommandIDs.showLost]);
  if (commands.hasCommand(CommandIDs.show)) {
    menu.addItem({ type: 'separator' });
    menu.addItem({ command: CommandIDs.show });
  }
  return menu;
}

/** A menu of the times for which a share can be kept. */
export function keepMenu(commands: CommandRegistry, kernelId: string, label: string): Menu {
  const menu = new Menu({ commands });
  menu.title.label = label;
  for (const minutes of KEEP_MINUTES) {
    menu.addItem({ command: CommandIDs.keep, args: { kernelId, minutes } });
  }
  menu.addItem({ command: CommandIDs.stopKeeping, args: { kernelId } });
  return menu;
}
