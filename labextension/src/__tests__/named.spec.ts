import type { KernelSpec } from '@jupyterlab/services';
import { otherName, sameSize } from '../named';

function specs(changes: object): KernelSpec.ISpecModels {
  return { default: 'one', kernelspecs: { one: changes } } as unknown as KernelSpec.ISpecModels;
}

describe('the size that a kernelspec names', () => {
  const stanza = { metadata: { kernel_provisioner: { config: { size: '0.5' } } } };
  const named = (spec: object, size: string): string | null =>
    otherName(specs(spec), { kernel_name: 'one', size });

  it('is told where the kernel has another one', () => {
    expect(named(stanza, '1/4')).toBe('0.5');
    expect(named({ env: { JUPYTER_GPU_SHARE_SIZE: '10GiB' } }, '1/4')).toBe('10GiB');
    expect(named(stanza, '0')).toBe('0.5');
  });

  it('is not told where the kernel has it, and where none is named', () => {
    expect(named(stanza, '1/2')).toBeNull();
    expect(named({ metadata: {} }, '1/4')).toBeNull();
    expect(named({ metadata: { kernel_provisioner: { config: null } } }, '1/4')).toBeNull();
    expect(otherName(null, { kernel_name: 'one', size: '1/4' })).toBeNull();
    expect(otherName(specs(stanza), { kernel_name: 'two', size: '1/4' })).toBeNull();
  });
});

describe('two sizes', () => {
  it.each([
    ['25%', '1/4'],
    ['0.25', '1/4'],
    ['2x50%', '2x1/2'],
    ['10 GiB', '10240MiB'],
    ['MIG-1g.10gb', 'mig-1g.10gb'],
    ['what only the server reads', '1/4']
  ])('%s and %s are one', (one, other) => {
    expect(sameSize(one, other)).toBe(true);
  });

  it.each([
    ['1/3', '1/4'],
    ['2x1/2', '1/2'],
    ['10GB', '10GiB'],
    ['mig-1g.10gb', 'mig-2g.20gb'],
    ['0', '1']
  ])('%s and %s are two', (one, other) => {
    expect(sameSize(one, other)).toBe(false);
  });
});
