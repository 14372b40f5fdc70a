import { Attention } from '../attention';

function look(seen: boolean): void {
  Object.defineProperty(document, 'hidden', { configurable: true, value: !seen });
  document.dispatchEvent(new Event('visibilitychange'));
}

describe('Attention', () => {
  const shown: string[] = [];
  beforeEach(() => {
    document.title = 'one.ipynb - JupyterLab';
    shown.length = 0;
    class Fake {
      static permission = 'granted';
      onclick = null;
      constructor(text: string) {
        shown.push(text);
      }
    }
    Object.defineProperty(window, 'Notification', { configurable: true, value: Fake });
  });
  afterEach(() => {
    look(true);
  });

  it('calls nobody who has not asked for it, and nobody who looks', () => {
    const attention = new Attention();
    look(false);
    attention.call('A share has come.', 'one');
    attention.desktop = attention.title = true;
    look(true);
    attention.call('A share has come.', 'one');
    expect(shown).toEqual([]);
    expect(document.title).toBe('one.ipynb - JupyterLab');
    attention.dispose();
  });

  it('tells on the desktop and in the title, until the page is seen', () => {
    const attention = new Attention();
    attention.desktop = attention.title = true;
    look(false);
    attention.call('A share has come.', 'one');
    attention.call('A share goes back.', 'two');
    expect(shown).toEqual(['A share has come.', 'A share goes back.']);
    expect(document.title).toBe('● one.ipynb - JupyterLab');
    look(true);
    expect(document.title).toBe('one.ipynb - JupyterLab');
    attention.dispose();
  });
});
