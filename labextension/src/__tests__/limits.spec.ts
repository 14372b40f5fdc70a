import { nullTranslator } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import { CommandRegistry } from '@lumino/commands';
import { Widget } from '@lumino/widgets';
import * as React from 'react';
import { isFull, Limits, partOf } from '../sidebar/limits';
import { SidebarWords } from '../sidebar/words';
import type { ILimit, IShares } from '../tokens';
import { GIB } from './rows';

const trans = nullTranslator.load('');
const words = new SidebarWords(trans);
const NOW = Date.parse('2026-03-01T12:00:00Z');

function limit(
  resource: ILimit['resource'],
  held: number,
  most: number,
  changes: Partial<ILimit> = {}
): ILimit {
  return {
    resource,
    scope: 'user',
    group: null,
    window_days: null,
    limit: most,
    held,
    free_at: null,
    ...changes
  };
}

/** The part of the panel as the page has it. A server of before tells no limits at all. */
async function shown(limits: readonly ILimit[] | undefined | null): Promise<HTMLElement> {
  const status = limits === null ? null : { limits };
  const shares = { status } as unknown as IShares;
  const panel = { shares, commands: new CommandRegistry(), trans, words };
  const widget = ReactWidget.create(React.createElement(Limits, panel));
  Widget.attach(widget, document.body);
  await widget.renderPromise;
  return widget.node;
}

describe('a limit', () => {
  it('is said with what is taken of it, in the unit of its resource', () => {
    expect(words.limit(limit('kernels', 2, 3))).toBe('2 of 3 kernels');
    expect(words.limit(limit('kernels', 0, 1))).toBe('0 of 1 kernel');
    expect(words.limit(limit('gpus', 0.75, 1))).toBe('0.75 of 1 GPU');
    expect(words.limit(limit('gpus', 0.25, 0.5))).toBe('0.25 of 0.5 GPU');
    expect(words.limit(limit('gpus', 1 / 3, 2))).toBe('0.33 of 2 GPUs');
    expect(words.limit(limit('memory_bytes', 20 * GIB, 320 * GIB))).toBe('20 of 320 GiB');
    const hours = (days: number): ILimit => limit('gpu_hours', 12.52, 40, { window_days: days });
    expect(words.limit(hours(7))).toBe('12.5 of 40 GPU-hours in 7 days');
    expect(words.limit(hours(1))).toBe('12.5 of 40 GPU-hours in 1 day');
  });

  it('says whose it is where it is not the own one', () => {
    const group: Partial<ILimit> = { scope: 'group', group: 'course' };
    expect(words.whoseLimit(limit('gpus', 1, 4))).toBe('');
    expect(words.whoseLimit(limit('gpus', 1, 4, group))).toBe('group course');
    expect(words.whoseLimit(limit('gpus', 1, 4, { scope: 'total' }))).toBe('everybody together');
  });

  it('says when there is room again where its hours are used up', () => {
    const used = limit('gpu_hours', 40, 40, { free_at: '2026-03-01T13:30:00Z' });
    expect(words.limitFree(used, NOW)).toBe(
      'Used up. There is room in 1 h 30 min if nothing is used until then.'
    );
    expect(words.limitFree(limit('gpu_hours', 1, 40), NOW)).toBe('');
  });

  it('is drawn as full where nothing more can be had, also where it is nothing', () => {
    expect(partOf(limit('gpus', 0.5, 2))).toBe(0.25);
    expect(partOf(limit('gpus', 3, 2))).toBe(1);
    expect(partOf(limit('gpus', 0, 0))).toBe(1);
    expect(isFull(limit('kernels', 2, 3))).toBe(false);
    expect(isFull(limit('kernels', 3, 3))).toBe(true);
  });
});

describe('the limits of the sidebar', () => {
  it('are not there without a broker, without limits, and before the server has told', async () => {
    for (const none of [null, [], undefined]) {
      expect((await shown(none)).innerHTML).toBe('');
    }
  });

  it('are a list with a name, with a bar that only repeats what is said', async () => {
    const rows = [limit('kernels', 3, 3), limit('gpus', 1, 4, { scope: 'group', group: 'course' })];
    const found = await shown(rows);
    const list = found.querySelector('ul');
    expect(list?.getAttribute('aria-label')).toBe('My limits');
    const items = [...(list?.querySelectorAll('li') ?? [])];
    expect(items.map(each => each.textContent)).toEqual([
      '3 of 3 kernels',
      '1 of 4 GPUsgroup course'
    ]);
    expect(items.map(each => each.className)).toEqual(['jp-mod-full', '']);
    const bars = [...found.querySelectorAll('.jp-GpuShare-bar')];
    expect(bars.every(each => each.getAttribute('aria-hidden') === 'true')).toBe(true);
    expect(bars.map(each => each.innerHTML)).toEqual([
      '<span style="width: 100%;"></span>',
      '<span style="width: 25%;"></span>'
    ]);
  });
});
