import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { Menu } from '@lumino/widgets';
import { shareMenu } from './commands';
import type { IShares } from './tokens';

/**
 * Open a menu below a button. When it closes, the focus is where it was before, and the menu is
 * disposed of.
 */
export function openBelow(menu: Menu, button: HTMLElement): void {
  const before = document.activeElement;
  const back = before instanceof HTMLElement && before !== document.body ? before : button;
  menu.aboutToClose.connect(() => {
    // Before the command runs: a dialog that it opens returns the focus to the same place.
    if (back.isConnected) {
      back.focus();
    }
    // The menu still has to run the command that was clicked.
    requestAnimationFrame(() => menu.dispose());
  });
  const { left, bottom } = button.getBoundingClientRect();
  menu.open(left, bottom);
}

/**
 * Open a kernel's menu at once, with the sizes as they were known last. What can be had now is
 * asked for meanwhile, which may take an engine seconds. Where none was known, the menu opens anew
 * with them: one that is open takes no further items.
 */
export function openShareMenu(
  commands: CommandRegistry,
  shares: IShares,
  kernelId: string,
  trans: TranslationBundle,
  button: HTMLElement
): void {
  const known = shares.sizes !== null;
  const menu = shareMenu(commands, shares, kernelId, trans);
  openBelow(menu, button);
  const answered = (): void => {
    if (menu.isDisposed || !menu.isAttached) {
      return;
    }
    if (known) {
      menu.update();
    } else if (menu.childMenu === null) {
      menu.close();
      openBelow(shareMenu(commands, shares, kernelId, trans), button);
    }
  };
  // Without an answer it stays as it is.
  void shares.refreshSizes().then(answered, () => undefined);
}
