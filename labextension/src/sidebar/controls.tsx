import type { TranslationBundle } from '@jupyterlab/translation';
import { Button, caretDownIcon } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import { Menu } from '@lumino/widgets';
import * as React from 'react';
import { addPossible, CommandIDs, keepMenu, WAYS_OUT } from '../commands';
import { docs, type DocsPage } from '../links';

/** Whether a command is there and can run for a kernel. */
export function can(
  commands: CommandRegistry,
  command: string,
  kernelId: string,
  more: Record<string, string> = {}
): boolean {
  const args = { kernelId, ...more };
  return commands.hasCommand(command) && commands.isEnabled(command, args);
}

interface IDoingProps {
  commands: CommandRegistry;
  command: string;
  kernelId: string;
  label: string;
  /** What it is done to, for those who do not see where the button stands. */
  of?: string;
  size?: string;
  look?: 'primary' | 'link';
}

/** A button that runs a command for a kernel; not there where the command cannot run. */
export function Doing(props: IDoingProps): React.JSX.Element | null {
  const { commands, command, kernelId, label, of, size, look } = props;
  const args = size === undefined ? { kernelId } : { kernelId, size };
  if (!can(commands, command, kernelId, size === undefined ? {} : { size })) {
    return null;
  }
  return (
    <Button
      className={CLASSES[look ?? 'plain']}
      aria-label={of === undefined ? undefined : `${label}: ${of}`}
      title={commands.caption(command, args)}
      onClick={event => {
        event.stopPropagation();
        void commands.execute(command, args);
      }}
    >
      {label}
    </Button>
  );
}

/** A link to the page of the documentation that says more. */
export function More({ page, label }: { page: DocsPage; label: string }): React.JSX.Element {
  return (
    <a
      className="jp-GpuShare-docs"
      href={docs(page)}
      target="_blank"
      rel="noopener noreferrer"
      onClick={event => {
        event.stopPropagation();
      }}
    >
      {label}
    </a>
  );
}

const CLASSES = {
  primary: 'jp-mod-styled jp-mod-accept',
  plain: 'jp-mod-styled jp-GpuShare-plain',
  link: 'jp-GpuShare-link'
} as const;

interface IOpenerProps {
  label: string;
  /** For those who do not see where the button stands. */
  name: string;
  menu: () => Menu;
}

/** A button that opens a menu below itself. */
export function Opener({ label, name, menu }: IOpenerProps): React.JSX.Element {
  return (
    <Button
      className={CLASSES.plain}
      aria-haspopup="menu"
      aria-label={name}
      title={name}
      onClick={event => {
        openBelow(menu(), event.currentTarget);
      }}
    >
      {label}
      <caretDownIcon.react tag="span" className="jp-GpuShare-caret" elementSize="small" />
    </Button>
  );
}

/** Open a menu below what it belongs to, which has the focus again when the menu closes. */
export function openBelow(menu: Menu, owner: HTMLElement): void {
  const { left, bottom } = owner.getBoundingClientRect();
  openAt(menu, left, bottom, owner);
}

/** The same at a place of the page. */
export function openAt(menu: Menu, x: number, y: number, owner: HTMLElement): void {
  menu.aboutToClose.connect(() => {
    // After the command that was chosen has been called: a dialog of its takes the focus then.
    window.setTimeout(() => {
      const focused = document.activeElement;
      if (owner.isConnected && (focused === document.body || menu.node.contains(focused))) {
        owner.focus();
      }
      menu.dispose();
    });
  });
  menu.open(x, y);
}

/** All that can be done with one kernel of the list. */
export function rowMenu(
  commands: CommandRegistry,
  kernelId: string,
  trans: TranslationBundle
): Menu {
  const menu = new Menu({ commands });
  const args = { kernelId };
  menu.addItem({ command: CommandIDs.changeSize, args });
  addPossible(menu, commands, args, WAYS_OUT);
  if (can(commands, CommandIDs.keep, kernelId)) {
    menu.addItem({ type: 'submenu', submenu: keepMenu(commands, kernelId, trans.__('Keep')) });
  }
  menu.addItem({ command: CommandIDs.giveBack, args });
  menu.addItem({ command: CommandIDs.wake, args });
  addPossible(menu, commands, args, [CommandIDs.showLost]);
  return menu;
}
