import type { IAllocation, IOffer, IShare, ISizes } from '../tokens';

export const GIB = 2 ** 30;

/** A share of one simulated GPU. */
export function share(memory: number): IShare {
  return {
    devices: [{ uuid: 'GPU-1', model: 'NVIDIA A100-80GB', node: 'here' }],
    memory_bytes: memory,
    fraction: null,
    isolation: 'driver',
    simulated: false
  };
}

/** An allocation as the server tells it. */
export function row(changes: Partial<IAllocation> = {}): IAllocation {
  return {
    kernel_id: 'one',
    kernel_name: 'python3',
    path: 'folder/one.ipynb',
    user: null,
    size: '1/4',
    state: 'active',
    reason: '',
    share: share(20 * GIB),
    used_bytes: null,
    utilization: null,
    idle_since: null,
    keep_until: null,
    next: null,
    queue: null,
    engine: 'local',
    backend: null,
    style: null,
    kept: { how: 'none', lost: [] },
    ...changes
  };
}

/** An offer as the server tells it. */
export function offer(size: string, changes: Partial<IOffer> = {}): IOffer {
  return {
    size,
    name: size,
    description: '',
    purpose: '',
    default: false,
    available: true,
    why: null,
    over_limit: false,
    memory_bytes: null,
    ...changes
  };
}

/** The offers and rules. */
export function sizes(offers: IOffer[], changes: Partial<ISizes> = {}): ISizes {
  return {
    sizes: offers,
    default: '1/4',
    minimum: null,
    maximum: null,
    max_devices: 8,
    only_offered: false,
    kernelspecs: ['python3'],
    ...changes
  };
}
