import type { KernelSpec } from '@jupyterlab/services';
import type { IAllocation } from './tokens';

/** Bytes of the units in which sizes are written. */
const UNITS: Readonly<Record<string, number>> = {
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12
};

/** As {@link otherName}, with what Lab knows by then. */
export type OtherName = (row: Pick<IAllocation, 'kernel_name' | 'size'>) => string | null;

/**
 * The size that the kernelspec of a kernel names, where the kernel has another one: it was changed
 * while it ran, and the next kernel starts with the size in the name again.
 *
 * @param specs - As Lab knows them; null where it does not.
 * @returns null where the name is true of the kernel, or nothing is named.
 */
export function otherName(
  specs: KernelSpec.ISpecModels | null,
  row: Pick<IAllocation, 'kernel_name' | 'size'>
): string | null {
  const spec = specs?.kernelspecs[row.kernel_name];
  const stanza = spec?.metadata?.kernel_provisioner as
    { config?: { size?: unknown } | null } | null | undefined;
  const named = spec?.env?.JUPYTER_GPU_SHARE_SIZE || stanza?.config?.size;
  return typeof named === 'string' && named && !sameSize(named, row.size) ? named : null;
}

/** Whether two texts mean the same size; of what only the server can read, that is assumed. */
export function sameSize(one: string, other: string): boolean {
  const [first, second] = [read(one), read(other)];
  return first === null || second === null || first === second;
}

/** A size as one text for each meaning; null where it is of another kind than these. */
function read(text: string): string | null {
  const plain = text.toLowerCase().replace(/\s/g, '');
  const [, count = '1', size = plain] = /^(\d+)x(.+)$/.exec(plain) ?? [];
  if (size.startsWith('mig-')) {
    return `${count} ${size}`;
  }
  const [, amount, over, unit] = /^([\d.]+)(?:\/(\d+)|(%|[mgt]i?b))?$/.exec(size) ?? [];
  const bytes = UNITS[unit ?? ''];
  const value = Number(amount) / Number(over ?? (unit === '%' ? 100 : 1));
  if (!Number.isFinite(value)) {
    return null;
  }
  return bytes === undefined
    ? `${count} ${value.toFixed(9)}`
    : `${count} ${Math.round(value * bytes)} bytes`;
}
