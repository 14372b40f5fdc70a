import { FocusKeeper } from '../sidebar/focus';

describe('FocusKeeper', () => {
  let panel: HTMLElement;
  let keeper: FocusKeeper;

  beforeEach(() => {
    document.body.innerHTML = `
      <div id="panel" tabindex="-1">
        <button id="title"></button><div id="card"><button id="one"></button></div>
      </div>
      <button id="elsewhere"></button>`;
    panel = at('panel');
    keeper = new FocusKeeper(panel);
  });

  afterEach(() => {
    keeper.dispose();
  });

  function at(id: string): HTMLElement {
    const found = document.getElementById(id);
    if (found === null) {
      throw new Error(`There is no ${id}.`);
    }
    return found;
  }

  /** Changes of the document are told after the script that made them. */
  const settled = async (): Promise<void> => {
    await new Promise(resolve => {
      setTimeout(resolve);
    });
  };

  const focused = (): string | undefined => document.activeElement?.id;

  it('gives the focus to the control that is left beside the one that goes', async () => {
    at('card').insertAdjacentHTML('beforeend', '<button id="two"></button>');
    at('one').focus();
    at('one').remove();
    await settled();
    expect(focused()).toBe('two');
  });

  it('waits in the panel for the next one that comes there', async () => {
    at('one').focus();
    at('one').remove();
    await settled();
    expect(focused()).toBe('panel');
    at('card').innerHTML = '<button id="next"></button>';
    await settled();
    expect(focused()).toBe('next');
  });

  it('looks further out where all around has gone', async () => {
    at('one').focus();
    at('card').remove();
    await settled();
    expect(focused()).toBe('title');
  });

  it('leaves the focus where the user has taken it', async () => {
    at('one').focus();
    at('elsewhere').focus();
    at('one').remove();
    await settled();
    expect(focused()).toBe('elsewhere');
  });

  it('takes no focus after a click elsewhere', async () => {
    at('one').focus();
    document.body.dispatchEvent(new Event('pointerdown', { bubbles: true }));
    at('one').blur();
    at('one').remove();
    await settled();
    expect(document.activeElement).toBe(document.body);
  });
});
