import { nullTranslator } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';
import { MessageLoop } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';
import { Menu } from '@lumino/widgets';
import { CommandIDs } from '../commands';
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

  it('of a share opens before the engine answers, and shows then what can be had', async () => {
    const commands = new CommandRegistry();
    let known = [offer('1/2', { description: 'to train' })];
    for (const id of Object.values(CommandIDs)) {
      commands.addCommand(id, {
        execute: () => undefined,
        label: id,
        caption: args => known.find(each => each.size === args['size'])?.why ?? 'to train'
      });
    }
    let answer: () => void = () => undefined;
    const shares = {
      sizes: sizes(known),
      changed: new Signal({}),
      refreshSizes: () =>
        new Promise<ISizes>(resolve => {
          answer = () => resolve(sizes(known));
        })
    } as unknown as IShares;
    openShareMenu(commands, shares, 'one', trans, button());
    MessageLoop.flush();
    const menu = document.querySelector('.lm-Menu');
    expect(menu?.textContent).toContain('to train');
    known = [offer('1/2', { available: false, why: 'It needs 40 GiB.' })];
    answer();
    await Promise.resolve();
    await Promise.resolve();
    MessageLoop.flush();
    expect(menu?.textContent).toContain('It needs 40 GiB.');
  });
});
