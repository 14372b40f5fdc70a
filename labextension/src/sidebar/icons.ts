import { LabIcon } from '@jupyterlab/ui-components';
import type { State } from '../tokens';

/** A small round mark; shapes differ, so that colour is not needed to tell them apart. */
function mark(name: string, shape: string): LabIcon {
  return new LabIcon({
    name: `jupyter-gpu-share:${name}`,
    svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 16 16">
<g fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round">${shape}</g></svg>`
  });
}

const waiting = mark('waiting', '<circle cx="8" cy="8" r="5.6"/><path d="M8 4.8V8l2.2 1.6"/>');
const coming = mark('coming', '<circle cx="8" cy="8" r="5.6" stroke-dasharray="2.4 3.46"/>');
const active = mark('active', '<circle cx="8" cy="8" r="5" fill="currentColor"/>');
const idle = mark(
  'idle',
  '<circle cx="8" cy="8" r="5.6"/><path d="M8 2.4a5.6 5.6 0 0 1 0 11.2z" fill="currentColor"/>'
);
const releasing = mark(
  'releasing',
  '<circle cx="8" cy="8" r="5.6"/><path d="M8 5v5M5.8 8 8 10.2 10.2 8"/>'
);
const released = mark('released', '<circle cx="8" cy="8" r="5.6"/>');
const failed = mark('failed', '<circle cx="8" cy="8" r="5.6"/><path d="m6 6 4 4m0-4-4 4"/>');

/** The mark of each state. */
export const STATE_ICONS: Readonly<Record<State, LabIcon>> = {
  queued: waiting,
  starting: coming,
  active,
  idle,
  releasing,
  released,
  waking: coming,
  failed,
  ended: released
};
