import { nullTranslator } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';
import { SizeField } from '../sizefield';
import { Words } from '../words';
import { offer, sizes } from './rows';

const trans = nullTranslator.load('');
const OFFERS = [offer('1/4', { description: 'to explore' }), offer('1/2')];

function field(changes = {}): SizeField {
  const made = new SizeField(sizes(OFFERS, changes), new Words(trans), trans);
  Widget.attach(made, document.body);
  return made;
}

function select(from: SizeField): HTMLSelectElement {
  const found = from.node.querySelector('select');
  if (found === null) {
    throw new Error('there is no list');
  }
  return found;
}

function other(from: SizeField): HTMLInputElement {
  const found = from.node.querySelector('input');
  if (found === null) {
    throw new Error('there is no input');
  }
  return found;
}

function about(from: SizeField): string {
  return from.node.querySelector('.jp-GpuShare-about')?.textContent ?? '';
}

function type(input: HTMLSelectElement | HTMLInputElement, value: string): void {
  input.value = value;
  input.dispatchEvent(new Event('input', { bubbles: true }));
}

describe('SizeField', () => {
  it('names the default of the kernelspec that it is for', () => {
    const made = field();
    made.offer({ size: null, standard: '1/2', locked: null });
    expect(select(made).selectedOptions[0]?.textContent).toBe('Default (½)');
    expect(made.size).toBeNull();
    made.offer({ size: null, standard: '1/4', locked: null });
    expect(select(made).selectedOptions[0]?.textContent).toBe('Default (¼)');
    expect(about(made)).toBe('to explore');
  });

  it('shows what was chosen before', () => {
    const made = field();
    made.offer({ size: '1/2', standard: '1/4', locked: null });
    expect(made.size).toBe('1/2');
    made.offer({ size: '30GiB', standard: '1/4', locked: null });
    expect(made.size).toBe('30GiB');
    expect(other(made).hidden).toBe(false);
  });

  it('shows what a kernel holds even if it is not offered', () => {
    const made = field({ only_offered: true });
    made.offer({ size: '30GiB', standard: null, locked: null });
    expect(made.size).toBe('30GiB');
    expect(select(made).options).toHaveLength(3);
  });

  it('has no default where a size has to be named', () => {
    const made = field();
    made.offer({ size: null, standard: null, locked: null });
    expect(made.size).toBe('1/4');
  });

  it('takes an empty size for one that is not there, not for the default', () => {
    const made = field();
    made.offer({ size: null, standard: '1/4', locked: null });
    type(select(made), 'other');
    expect(made.size).toBe('');
  });

  it('says why a size is refused until another is picked', () => {
    const made = field();
    made.offer({ size: '100GiB', standard: '1/4', locked: null });
    made.refuse('More than a GPU here.');
    expect(about(made)).toBe('More than a GPU here.');
    expect(other(made).getAttribute('aria-invalid')).toBe('true');
    expect(document.activeElement).toBe(other(made));
    type(other(made), '10GiB');
    expect(about(made)).toBe('');
    expect(other(made).getAttribute('aria-invalid')).toBe('false');
  });

  it('says why nothing can be picked', () => {
    const made = field();
    made.offer({ size: '1/2', standard: null, locked: 'It is used elsewhere.' });
    expect(select(made).disabled).toBe(true);
    expect(about(made)).toBe('It is used elsewhere.');
  });

  it('shows what is held while it asks, and keeps what is picked when the answer comes', () => {
    const made = new SizeField(null, new Words(trans), trans);
    Widget.attach(made, document.body);
    made.offer({ size: '1/2', standard: null, locked: null });
    expect(made.size).toBe('1/2');
    expect(about(made)).toBe('Asking for the sizes…');
    made.know(sizes(OFFERS));
    expect(made.size).toBe('1/2');
    expect(about(made)).toBe('');
    type(select(made), '1/4');
    made.refuse('Not that one.');
    made.know(sizes([...OFFERS, offer('1')]));
    expect(made.size).toBe('1/4');
    expect(about(made)).toBe('Not that one.');
  });
});
