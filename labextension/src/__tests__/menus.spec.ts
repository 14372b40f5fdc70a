import { nullTranslator } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';
import { MessageLoop } from '@lumino/messaging';
import { Menu } from '@lumino/widgets';
import { CommandIDs, shareMenu } from '../commands';
import { openBelow, openShareMenu } from '../menus';
import type { IShares, ISizes } from '../tokens';
import { offer, sizes } from './rows';

const trans = nullTranslator.load('');

function button(): HTMLButtonElement {
  const made = document.createElement('button');
  document.body.append(made);
  made.focus();
  return made;
}

describe('a menu', () => {
  it('returns the focus, and is disposed of', async () => {
    const opener = button();
    const menu = new Menu({ commands: new CommandRegistry() });
    openBelow(menu, opener);
    MessageLoop.flush();
    expect(menu.isAttached).toBe(true);
    expect(document.activeElement).not.toBe(opener);
    menu.close();
    expect(document.activeElement).toBe(opener);
    await new Promise(resolve => requestAnimationFrame(resolve));
    expect(menu.isDisposed).toBe(true);
  });

  const commands = new CommandRegistry();
  let known = [offer('1/2', { description: 'to train' })];
  let answer: () => void = () => undefined;
  for (const id of Object.values(CommandIDs)) {
    commands.addCommand(id, {
      execute: () => undefined,
      label: id,
      caption: args => known.find(each => each.size === args['size'])?.why ?? 'to train'
    });
  }

  function opened(before: ISizes | null): void {
    document.querySelectorAll('.lm-Menu').forEach(each => each.remove());
    const shares = {
      sizes: before,
      refreshSizes: () =>
        new Promise<ISizes>(resolve => {
          answer = () => {
            shares.sizes = sizes(known);
            resolve(shares.sizes);
          };
        })
    };
    openShareMenu(commands, shares as unknown as IShares, 'one', trans, button());
    MessageLoop.flush();
  }

  function texts(): string[] {
    return [...document.querySelectorAll('.lm-Menu')].map(each => each.textContent ?? '');
  }

  async function answered(): Promise<void> {
    answer();
    await Promise.resolve();
    await Promise.resolve();
    MessageLoop.flush();
  }

  it('of a share opens before the engine answers, and shows then what can be had', async () => {
    known = [offer('1/2', { description: 'to train' })];
    opened(sizes(known));
    expect(texts()[0]).toContain('to train');
    known = [offer('1/2', { available: false, why: 'It needs 40 GiB.' })];
    await answered();
    expect(texts()).toHaveLength(1);
    expect(texts()[0]).toContain('It needs 40 GiB.');
  });

  it('of a share opens even where no size is known yet', async () => {
    opened(null);
    expect(texts()[0]).toContain(CommandIDs.giveBack);
    known = [offer('1/2', { available: false, why: 'It needs 40 GiB.' })];
    await answered();
    expect(texts()).toHaveLength(1);
    expect(texts()[0]).toContain('It needs 40 GiB.');
  });

  it('has no empty part where the plugin of the commands is disabled', () => {
    const few = new CommandRegistry();
    few.addCommand(CommandIDs.show, { execute: () => undefined, label: 'Show' });
    const menu = shareMenu(few, { sizes: sizes(known) } as unknown as IShares, 'one', trans);
    expect(menu.items.filter(item => item.isVisible && item.type !== 'separator')).toHaveLength(1);
    menu.dispose();
  });
});
