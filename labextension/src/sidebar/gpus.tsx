import { Button } from '@jupyterlab/ui-components';
import * as React from 'react';
import type { IAllocation, IGpu } from '../tokens';
import { gibibytes, shortModel } from '../words';
import { useClock } from './clock';
import type { IPanelProps } from './props';
import { roomsOf, type IRoom, type IRooms, type ISegment } from './rooms';
import { Section } from './section';
import type { SidebarWords } from './words';

/** So many GPUs are shown at first; a cluster may have hundreds. */
const FIRST = 8;

interface IGpusProps extends IPanelProps {
  rows: readonly IAllocation[];
}

/** Each GPU as it is, and who waits. */
export function Gpus(props: IGpusProps): React.JSX.Element {
  const { shares, rows, trans, words } = props;
  const { status } = shares;
  const [all, setAll] = React.useState(false);
  const gpus = status?.gpus ?? [];
  const found = roomsOf(gpus, rows);
  // Those with shares of mine first where not all are shown.
  const ordered =
    found.rooms.length > FIRST && !all
      ? [...found.rooms].sort((one, other) => mine(other) - mine(one)).slice(0, FIRST)
      : found.rooms;
  const free = gibibytes(found.largest);
  return (
    <Section
      title={trans.__('GPUs')}
      summary={
        gpus.length === 0
          ? undefined
          : gpus.length === 1
            ? trans.__('%1 free', free)
            : trans.__('%1 free at most', free)
      }
      summaryTitle={trans.__('The largest share that one GPU has free now: %1', free)}
    >
      {status === null && (
        <p className="jp-GpuShare-muted" role="status">
          {trans.__('Asking for the GPUs…')}
        </p>
      )}
      {status !== null && gpus.length === 0 && (
        <p className="jp-GpuShare-muted">{status.problem ?? trans.__('There is no GPU now.')}</p>
      )}
      {ordered.length > 0 && (
        <ul className="jp-GpuShare-gpus" role="list" aria-label={trans.__('GPUs')}>
          {ordered.map(room => (
            <Gpu key={room.gpu.uuid} {...props} room={room} found={found} />
          ))}
        </ul>
      )}
      {found.rooms.length > FIRST && (
        <Button
          className="jp-GpuShare-link"
          aria-expanded={all}
          onClick={() => {
            setAll(!all);
          }}
        >
          {all
            ? trans.__('Show fewer')
            : trans._n('Show all %1 GPU', 'Show all %1 GPUs', found.rooms.length)}
        </Button>
      )}
      <Queue {...props} words={words} />
      {status?.simulated && (
        <p className="jp-GpuShare-muted">
          {trans.__('These GPUs are simulated: nothing runs on a chip.')}
        </p>
      )}
    </Section>
  );
}

function mine(room: IRoom): number {
  return room.segments.some(segment => segment.kind === 'mine') ? 1 : 0;
}

function Gpu({
  room,
  found,
  trans,
  words
}: IPanelProps & { room: IRoom; found: IRooms }): React.JSX.Element {
  const { gpu, index, segments } = room;
  const name = [modelOf(gpu), gpu.node, index]
    .filter(part => part !== null && part !== '')
    .join(' · ');
  const said = (segment: ISegment): string => saidOf(segment, found, words, trans);
  return (
    <li>
      <div className="jp-GpuShare-pair jp-mod-wraps">
        <bdi className="jp-GpuShare-cut" title={`${name} · ${gibibytes(gpu.memory_bytes)}`}>
          {name}
        </bdi>
        <span className="jp-GpuShare-value jp-GpuShare-muted">
          {gpu.memory_bytes === 0
            ? gpu.kernels > 0
              ? trans.__('in use')
              : trans.__('free')
            : trans.__('%1 free', gibibytes(gpu.free_bytes))}
        </span>
      </div>
      {gpu.memory_bytes > 0 && (
        <div
          className="jp-GpuShare-segments"
          role="img"
          aria-label={`${name}, ${gibibytes(gpu.memory_bytes)}: ${segments.map(said).join(', ')}`}
        >
          {segments.map(segment => (
            <span
              key={segment.row?.kernel_id ?? segment.kind}
              className={`jp-mod-${segment.kind}`}
              title={said(segment)}
              style={{ flexGrow: segment.bytes / gpu.memory_bytes }}
            >
              <bdi>{labelOf(segment, words, said(segment), trans)}</bdi>
            </span>
          ))}
        </div>
      )}
    </li>
  );
}

/** Model and memory; some models have it in their names. */
function modelOf(gpu: IGpu): string {
  const model = shortModel(gpu.model).replace(/ \(simulated\)$/, '');
  if (gpu.profile !== null) {
    return `${model} ${gpu.profile}`;
  }
  const says = /\d ?GB$/.test(model) || gpu.memory_bytes === 0;
  return says ? model : `${model} · ${gibibytes(gpu.memory_bytes)}`;
}

/** What there is room for; the amount of what is free stands above. */
function labelOf(
  segment: ISegment,
  words: SidebarWords,
  said: string,
  trans: IPanelProps['trans']
): string {
  if (segment.row !== null) {
    return words.name(segment.row).replace(/\.ipynb$/, '');
  }
  return segment.kind === 'free' ? trans.__('free') : said;
}

function saidOf(
  segment: ISegment,
  found: IRooms,
  words: SidebarWords,
  trans: IPanelProps['trans']
): string {
  const bytes = gibibytes(segment.bytes);
  if (segment.row !== null) {
    return `${words.name(segment.row)} ${bytes}`;
  }
  if (segment.kind === 'free') {
    return trans.__('%1 free', bytes);
  }
  // Where mine may be among them, they are not said to be others'.
  return found.unplaced ? trans.__('in use %1', bytes) : trans.__('others %1', bytes);
}

/** How many wait, and when an idle share goes back. */
function Queue({ shares, trans, words }: IPanelProps): React.JSX.Element | null {
  const { status } = shares;
  const now = useClock(status?.queue ? 10_000 : 0);
  if (!status?.queue) {
    return null;
  }
  return (
    <p className="jp-GpuShare-queue">
      {trans._n('%1 kernel waits.', '%1 kernels wait.', status.queue)}
      {status.next_release !== null &&
        ` ${trans.__('An idle share goes back in %1.', words.about(status.next_release, now))}`}
    </p>
  );
}
