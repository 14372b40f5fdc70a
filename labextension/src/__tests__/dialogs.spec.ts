import { pickFor } from '../dialogs';
import { offer, row, sizes } from './rows';

const KNOWN = {
  sizes: sizes([offer('1/4')], { kernelspecs: ['python3', 'half', 'named'] }),
  choice: {
    size: '1/8',
    defaults: { python3: '1/4', half: '1/2', named: '1/2' },
    fixed: { named: '1/2' }
  }
};
const ROWS = new Map([['one', row({ kernel_id: 'one', size: '3/4' })]]);

describe('the size that Select Kernel offers', () => {
  const pick = (kernel: object | null, own?: string): unknown =>
    pickFor(kernel, own, KNOWN, ROWS, { elsewhere: 'elsewhere', named: 'named' });

  it('is the last choice for a new kernel, with the default of its kernelspec', () => {
    expect(pick({ name: 'half' })).toEqual({ size: '1/8', standard: '1/2', locked: null });
    expect(pick({ name: 'python3' })).toEqual({ size: '1/8', standard: '1/4', locked: null });
  });

  it('is what the kernel of the session holds, and can be changed', () => {
    expect(pick({ id: 'one' }, 'one')).toEqual({ size: '3/4', standard: null, locked: null });
  });

  it('is what the kernel of another session holds, and stays', () => {
    const found = { size: '3/4', standard: null, locked: 'elsewhere' };
    expect(pick({ id: 'one' }, 'two')).toEqual(found);
  });

  it('is the one that the kernelspec names, whatever was chosen, and stays', () => {
    const found = { size: '1/2', standard: null, locked: 'named' };
    expect(pick({ name: 'named' })).toEqual(found);
  });

  it('is not there where there is no share to have', () => {
    expect(pick(null)).toBeNull();
    expect(pick({ name: 'plain' })).toBeNull();
    expect(pick({ id: 'unknown' }, 'unknown')).toBeNull();
  });
});
