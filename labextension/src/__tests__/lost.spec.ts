import { nullTranslator } from '@jupyterlab/translation';
import { lostBody } from '../lost';

const trans = nullTranslator.load('');
const LOSS = { name: 'g', what: 'generator', why: 'it cannot be saved.' };

describe('the list of what was lost', () => {
  it('says so where nothing is lost', () => {
    const { node } = lostBody({ lost: [], aside: [] }, trans);
    expect(node.querySelector('p')?.textContent).toBe('No variable of this kernel is lost.');
    expect(node.querySelector('a')?.href).toMatch(/\/docs\/keeping\.md$/);
  });

  it('names each, what it is and why, as text', () => {
    const hostile = { name: '<b>x</b>', what: '', why: 'Why.' };
    const { node } = lostBody({ lost: [LOSS, hostile], aside: [] }, trans);
    const items = [...node.querySelectorAll('li')].map(item => item.textContent);
    expect(items).toEqual(['g generator: it cannot be saved.', '<b>x</b> Why.']);
    expect(node.querySelector('b')).toBeNull();
  });

  it('names the files that still have what did not come back', () => {
    const saved = '2026-03-01T12:00:00Z';
    const aside = [{ file: '/kept/one', bytes: 2 ** 30, saved, missing: [LOSS] }];
    const { node } = lostBody({ lost: [], aside }, trans);
    expect(node.textContent).toContain('The file /kept/one (1 GiB) on the server');
    expect(node.querySelectorAll('li')).toHaveLength(1);
  });
});
