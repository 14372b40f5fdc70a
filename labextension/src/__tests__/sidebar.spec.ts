import { Budget } from '../budget';
import { bytesOf, clamped, heldBytes, partOf } from '../sidebar/amounts';
import { arranged, parted, sumBytes, type Order } from '../sidebar/order';
import { roomsOf } from '../sidebar/rooms';
import { nearest, timeline } from '../sidebar/timeline';
import { SidebarWords } from '../sidebar/words';
import type { IGpu, IHistory, IReading, IShare } from '../tokens';
import { nullTranslator } from '@jupyterlab/translation';
import { GIB, row, share } from './rows';

const MINUTE = 60 * 1000;
const NOW = Date.parse('2026-03-01T12:00:00Z');

function at(minutes: number): string {
  return new Date(NOW + minutes * MINUTE).toISOString();
}

function gpu(uuid: string, free: number, changes: Partial<IGpu> = {}): IGpu {
  return {
    uuid,
    model: 'NVIDIA A100-80GB',
    node: 'n',
    memory_bytes: 80 * GIB,
    free_bytes: free * GIB,
    profile: null,
    simulated: false,
    kernels: 1,
    ...changes
  };
}

function on(gib: number, ...uuids: string[]): IShare {
  const devices = uuids.map(uuid => ({ uuid, model: 'NVIDIA A100-80GB', node: 'n' }));
  return { ...share(gib * GIB), devices };
}

describe('Budget', () => {
  it('lets twelve be asked at once, and then one for each that is a minute old', () => {
    const budget = new Budget();
    for (let number = 0; number < 12; number += 1) {
      expect(budget.delay(1000 + number)).toBe(0);
      budget.spend(1000 + number);
    }
    expect(budget.delay(2000)).toBe(1000 + MINUTE - 2000);
    expect(budget.delay(1000 + MINUTE)).toBe(0);
  });

  it('is not held up by a clock that is set back', () => {
    const budget = new Budget();
    for (let number = 0; number < 12; number += 1) {
      budget.spend(10 * MINUTE);
    }
    budget.spend(MINUTE);
    expect(budget.delay(MINUTE + 1)).toBe(0);
  });
});

describe('amounts', () => {
  it('count all devices of a share', () => {
    expect(heldBytes(row({ share: on(40, 'a', 'b') }))).toBe(80 * GIB);
    expect(heldBytes(row({ share: null }))).toBe(0);
    expect(sumBytes([row(), row({ share: null }), row({ share: on(40, 'a', 'b') })])).toBe(
      100 * GIB
    );
  });

  it('know what a size comes to only where that is the same on every GPU', () => {
    const alike = [gpu('a', 1), gpu('b', 2)];
    expect(bytesOf('1/4', alike)).toBe(20 * GIB);
    expect(bytesOf('2x1/2', alike)).toBe(80 * GIB);
    expect(bytesOf('512MiB', [])).toBe(GIB / 2);
    expect(bytesOf('1/4', [...alike, gpu('c', 1, { memory_bytes: 24 * GIB })])).toBeNull();
    expect(bytesOf('1/4', [])).toBeNull();
    expect(bytesOf('1/4', [gpu('a', 1, { memory_bytes: 0 })])).toBeNull();
    expect(bytesOf('mig-1g.10gb', alike)).toBeNull();
  });

  it('read fractions, and draw nothing beyond an edge', () => {
    expect(partOf('3/4')).toBe(0.75);
    expect(partOf('0.5')).toBe(0.5);
    expect(partOf('10GiB')).toBeNull();
    expect([0 / 0, 5, -1, 0.5].map(clamped)).toEqual([0, 1, 0, 0.5]);
  });
});

describe('roomsOf', () => {
  it('makes up the whole memory of mine, others and what is free', () => {
    const mine = row({ share: on(20, 'a') });
    const [room] = roomsOf([gpu('a', 30)], [mine]).rooms;
    expect(room?.segments.map(each => [each.kind, each.bytes / GIB])).toEqual([
      ['mine', 20],
      ['others', 30],
      ['free', 30]
    ]);
  });

  it('takes no more than there is where shares and GPUs are told at different moments', () => {
    const mine = row({ share: on(60, 'a') });
    const [room] = roomsOf([gpu('a', 80)], [mine]).rooms;
    expect(room?.segments.map(each => [each.kind, each.bytes / GIB])).toEqual([
      ['mine', 60],
      ['free', 20]
    ]);
  });

  it('says the most of one GPU, never a sum', () => {
    expect(roomsOf([gpu('a', 20), gpu('b', 40)], []).largest).toBe(40 * GIB);
  });

  it('numbers GPUs on a node that has several, and knows of shares it cannot place', () => {
    const found = roomsOf(
      [gpu('a', 1), gpu('b', 1), gpu('c', 1, { node: 'other' })],
      [row({ share: on(20, 'elsewhere') })]
    );
    expect(found.rooms.map(room => room.index)).toEqual([0, 1, null]);
    expect(found.unplaced).toBe(true);
    expect(roomsOf([gpu('a', 1)], [row({ share: on(20, 'a') })]).unplaced).toBe(false);
  });
});

describe('arranged', () => {
  const rows = [
    row({ kernel_id: 'b', path: 'run-10.ipynb', state: 'active' }),
    row({ kernel_id: 'a', path: 'run-9.ipynb', state: 'queued', share: null }),
    row({
      kernel_id: 'c',
      path: 'run-1.ipynb',
      state: 'idle',
      share: on(40, 'a'),
      next: { action: 'release', at: at(1) }
    })
  ];
  const ids = (order: Order, query = ''): string =>
    arranged(rows, order, query, each => `${each.path ?? ''} ${each.state}`)
      .map(each => each.kernel_id)
      .join('');

  it('orders them as is wanted', () => {
    expect(ids('started')).toBe('bac');
    expect(ids('name')).toBe('cab');
    expect(ids('state')).toBe('cab');
    expect(ids('memory')).toBe('cba');
  });

  it('finds all words in any order', () => {
    expect(ids('started', 'QUEUED run')).toBe('a');
    expect(ids('started', 'run 1')).toBe('bc');
    expect(ids('started', 'nothing')).toBe('');
  });
});

describe('parted', () => {
  it('keeps the end that tells names apart, and loses no letter', () => {
    expect(parted('resnet50-ablation-29')).toEqual(['resnet50-ablation', '-29']);
    expect(parted('short')).toEqual(['short', '']);
    for (const name of ['x'.repeat(40), '🙂'.repeat(20), 'a-b-c-d-e-f-g-h']) {
      expect(parted(name).join('')).toBe(name);
    }
    expect(parted('🙂'.repeat(20))[1]).toBe('🙂'.repeat(5));
  });
});

function past(changes: Partial<IHistory> = {}): IHistory {
  return {
    kernel_id: 'one',
    now: at(0),
    held_since: at(-10),
    gpu_hours: 0,
    returned_gpu_hours: 0,
    spans: [],
    samples: { begin: null, interval: 15, used_bytes: [], utilization: [] },
    ...changes
  };
}

describe('timeline', () => {
  const samples = {
    begin: at(-1),
    interval: 15,
    used_bytes: [GIB, null, 3 * GIB, 4 * GIB],
    utilization: [0.1, null, 0.3, 0.4]
  };

  it('goes on where the server ended', () => {
    const live: IReading[] = [-2, -0.5, 5].map(minutes => ({
      at: NOW + minutes * MINUTE,
      used: 9 * GIB,
      utilization: 1
    }));
    const found = timeline(past({ samples }), live, 20 * GIB, NOW + 5 * MINUTE);
    expect(found.memory.map(point => point.value)).toEqual([GIB, null, 3 * GIB, 4 * GIB, 9 * GIB]);
    expect(found.memory[0]?.at).toBe(NOW - MINUTE + 7500);
    expect(found.use.map(point => point.value)).toEqual([0.1, null, 0.3, 0.4, 1]);
  });

  it('shows a gap where the share was released, and nothing read in it', () => {
    const spans = [
      { begin: at(-9), end: at(-0.6), ended_by: 'release', memory_bytes: 20 * GIB },
      { begin: at(-0.4), end: null, ended_by: null, memory_bytes: 40 * GIB }
    ] as const;
    const found = timeline(past({ samples, spans }), [], 40 * GIB, NOW);
    expect(found.gaps).toEqual([{ from: NOW - 0.6 * MINUTE, to: NOW - 0.4 * MINUTE }]);
    expect(found.minutes).toBe(10);
    expect(found.top).toBe(40 * GIB);
    const within = found.memory.filter(
      point => point.at >= NOW - 0.6 * MINUTE && point.at < NOW - 0.4 * MINUTE
    );
    expect(within.every(point => point.value === null)).toBe(true);
  });

  it('has a gap that lasts, and none where a kernel ended or was resized', () => {
    const spans = (ended_by: 'release' | 'resize' | 'end') => [
      { begin: at(-9), end: at(-3), ended_by, memory_bytes: 20 * GIB }
    ];
    expect(timeline(past({ spans: spans('release') }), [], 0, NOW).gaps).toEqual([
      { from: NOW - 3 * MINUTE, to: null }
    ]);
    expect(timeline(past({ spans: spans('end') }), [], 0, NOW).gaps).toEqual([]);
    expect(timeline(past({ spans: spans('resize') }), [], 0, NOW).gaps).toEqual([]);
    // The page knows already that the share is back.
    const back = timeline(past({ spans: spans('release') }), [], 20 * GIB, NOW + MINUTE);
    expect(back.gaps).toEqual([{ from: NOW - 3 * MINUTE, to: NOW }]);
  });

  it('is an hour wide at most, and says nothing where nothing is known', () => {
    const spans = [{ begin: at(-300), end: null, ended_by: null, memory_bytes: GIB }];
    expect(timeline(past({ spans }), [], GIB, NOW).minutes).toBe(60);
    expect(timeline(null, [], 0, NOW)).toMatchObject({ minutes: 5, gaps: [], memory: [], top: 0 });
  });

  it('finds the point that is nearest to the pointer', () => {
    const points = [
      { at: 1, value: 1 },
      { at: 5, value: null },
      { at: 9, value: 9 }
    ];
    expect(nearest(points, 5.5)?.value).toBe(9);
    expect(nearest([], 1)).toBeNull();
  });
});

describe('SidebarWords', () => {
  const words = new SidebarWords(nullTranslator.load('jupyter_gpu_share'));

  it('tells amounts in GiB beside fractions', () => {
    const gpus = [gpu('a', 1)];
    expect(words.chip(row(), gpus)).toBe('¼ · 20 GiB');
    expect(words.chip(row({ size: '3/4', share: null }), gpus)).toBe('¾ · 60 GiB');
    expect(words.chip(row({ size: '10GiB', share: null }), gpus)).toBe('10 GiB');
    expect(words.chip(row({ size: 'mig-1g.10gb', share: null }), gpus)).toBe('mig-1g.10gb');
    expect(words.chip(row({ size: '0' }), gpus)).toBe('No GPU');
    expect(words.part(row({ share: { ...on(20, 'a'), fraction: '1/4' } }))).toBe('¼ of a GPU');
    expect(words.part(row({ size: '1', share: null }))).toBe('a whole GPU · not held');
    expect(words.part(row({ size: '10GiB', share: { ...on(10, 'a'), fraction: '37/80' } }))).toBe(
      '46 % of a GPU'
    );
    expect(
      words.part(row({ size: '2x1/2', share: { ...on(40, 'a', 'b'), fraction: '1/2' } }))
    ).toBe('½ of each of 2 GPUs');
  });

  it('says when a share goes, and no time without a ground', () => {
    const leaves = row({ state: 'idle', next: { action: 'release', at: at(0.5) } });
    expect(words.next(leaves, undefined, NOW)).toBe('Goes back in 0:30 unless a cell runs.');
    expect(words.next({ ...leaves, keep_until: at(60) }, undefined, NOW)).toMatch(/^Kept until/);
    const waits = row({ state: 'queued', share: null, queue: { position: 1, of: 2 } });
    expect(words.next(waits, undefined, NOW)).toBe('');
    expect(words.next(waits, at(3.2), NOW)).toContain('about 4 min');
    expect(words.about(at(-5), NOW)).toBe('about 1 min');
    expect(words.next(row({ size: '0' }), undefined, NOW)).toBe('');
  });

  it('tells lengths of time and GPU-hours as a person reads them', () => {
    expect([0, 50, 540, 3600, 3900].map(seconds => words.span(seconds * 1000))).toEqual([
      '0 s',
      '50 s',
      '9 min',
      '1 h',
      '1 h 5 min'
    ]);
    expect([0, 0.001, 0.183, 12.34].map(value => words.hours(value))).toEqual([
      '0.00',
      '< 0.01',
      '0.18',
      '12.3'
    ]);
  });
});
