import {
  Button,
  ellipsesIcon,
  HTMLSelect,
  InputGroup,
  searchIcon
} from '@jupyterlab/ui-components';
import * as React from 'react';
import { CommandIDs } from '../commands';
import { isStuck } from '../sizes';
import type { IAllocation, IGpu } from '../tokens';
import { gibibytes } from '../words';
import { clamped, heldBytes, isWithoutGpu } from './amounts';
import { Dismiss, State, WaysOut } from './card';
import { useClock } from './clock';
import { Doing, openAt, openBelow, rowMenu } from './controls';
import { arranged, parted, sumBytes, type Order } from './order';
import type { IPanelProps } from './props';
import { Section } from './section';

/** From so many rows on they can be filtered and ordered. */
const MANY = 6;

interface IListProps extends IPanelProps {
  rows: readonly IAllocation[];
  /** The one of the notebook that the user is in. */
  current: IAllocation | null;
}

/** All kernels of the user on this server. */
export function List(props: IListProps): React.JSX.Element {
  const { rows, current, shares, trans, words } = props;
  const [query, setQuery] = React.useState('');
  const [order, setOrder] = React.useState<Order>('started');
  const now = useClock(rows.length > 0 ? 10_000 : 0);
  const many = rows.length >= MANY;
  const shown = many
    ? arranged(
        rows,
        order,
        query,
        row => `${words.name(row)} ${row.path ?? ''} ${words.state(row, now)}`
      )
    : rows;
  const list = React.useRef<HTMLUListElement>(null);
  const [active, setActive] = React.useState<string | null>(null);
  // One row is reached by Tab, the others by the arrows from there.
  const reached = shown.some(row => row.kernel_id === active) ? active : shown[0]?.kernel_id;
  const held = gibibytes(sumBytes(rows));
  return (
    <Section
      title={trans.__('My kernels')}
      summary={rows.length > 0 ? trans.__('%1 · %2 held', rows.length, held) : undefined}
      summaryTitle={trans._n('%1 kernel holds %2', '%1 kernels hold %2', rows.length, held)}
    >
      {rows.length === 0 && (
        <p className="jp-GpuShare-muted">{trans.__('No kernel of yours has a share.')}</p>
      )}
      {many && (
        <div className="jp-GpuShare-find">
          <InputGroup
            type="search"
            aria-label={trans.__('Filter kernels by name or state')}
            placeholder={trans.__('Filter')}
            value={query}
            rightIcon={searchIcon}
            onChange={event => {
              setQuery(event.currentTarget.value);
            }}
          />
          <HTMLSelect
            aria-label={trans.__('Order of the kernels')}
            value={order}
            onChange={event => {
              setOrder(event.target.value as Order);
            }}
          >
            <option value="started">{trans.__('By start')}</option>
            <option value="name">{trans.__('By name')}</option>
            <option value="state">{trans.__('By state')}</option>
            <option value="memory">{trans.__('By memory')}</option>
          </HTMLSelect>
        </div>
      )}
      {rows.length > 0 && shown.length === 0 && (
        <p className="jp-GpuShare-muted" role="status">
          {trans.__('No kernel matches.')}
        </p>
      )}
      {shown.length > 0 && (
        <ul
          className="jp-GpuShare-list"
          role="list"
          aria-label={trans.__('My kernels')}
          ref={list}
          onKeyDown={event => {
            move(event, list.current);
          }}
        >
          {shown.map(row => (
            <Row
              key={row.kernel_id}
              {...props}
              row={row}
              gpus={shares.status?.gpus ?? NO_GPUS}
              turn={shares.status?.turns[row.kernel_id]}
              here={row === current}
              reached={row.kernel_id === reached}
              reach={setActive}
              now={now}
              few={!many}
            />
          ))}
        </ul>
      )}
    </Section>
  );
}

const NO_GPUS: readonly IGpu[] = [];

/** Go from one row to another by the arrows, Home and End. */
function move(event: React.KeyboardEvent, list: HTMLElement | null): void {
  const names = [...(list?.querySelectorAll<HTMLElement>('.jp-GpuShare-name') ?? [])];
  const at = names.findIndex(name => name.closest('li')?.contains(document.activeElement));
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: names.length - 1 }[event.key];
  const found = to === undefined ? undefined : names[to];
  if (found !== undefined) {
    event.preventDefault();
    found.focus();
  }
}

interface IRowProps extends IPanelProps {
  row: IAllocation;
  gpus: readonly IGpu[];
  turn: string | undefined;
  here: boolean;
  reached: boolean;
  reach: (kernelId: string) => void;
  now: number;
  /** Whether there is room for what can be found in the menu too. */
  few: boolean;
}

/** One kernel; it changes with its allocation, not with each that of another. */
const Row = React.memo(RowOf, (before, now) =>
  (['row', 'gpus', 'turn', 'here', 'reached', 'now', 'few', 'words'] as const).every(
    name => before[name] === now[name]
  )
);

function RowOf(props: IRowProps): React.JSX.Element {
  const { row, gpus, turn, here, reached, reach, now, few, commands, trans, words } = props;
  const name = words.name(row);
  const [head, tail] = parted(name.replace(/\.ipynb$/, ''));
  const { kernel_id: kernelId, path } = row;
  const bytes = heldBytes(row);
  const next = words.rowNext(row, turn, now);
  const memory = bytes === 0 || row.used_bytes === null ? '' : gibibytes(row.used_bytes);
  const open = (): void => {
    if (path !== null && commands.hasCommand('docmanager:open')) {
      void commands.execute('docmanager:open', { path });
    }
  };
  const shared = { commands, kernelId, of: name, look: 'link' as const };
  const stop = reached ? 0 : -1;
  return (
    <li
      className={`jp-GpuShare-row${here ? ' jp-mod-here' : ''}`}
      title={row.reason}
      aria-current={here ? 'true' : undefined}
      onClick={open}
      onContextMenu={event => {
        event.preventDefault();
        event.stopPropagation();
        const owner = event.currentTarget.querySelector<HTMLElement>('.jp-GpuShare-name');
        if (owner !== null) {
          const menu = rowMenu(commands, kernelId, trans);
          // The key for menus has no place on the page.
          if (event.clientX === 0 && event.clientY === 0) {
            openBelow(menu, owner);
          } else {
            openAt(menu, event.clientX, event.clientY, owner);
          }
        }
      }}
      onFocus={() => {
        reach(kernelId);
      }}
    >
      <Button
        className="jp-GpuShare-name"
        tabIndex={stop}
        title={path ?? row.kernel_name}
        aria-label={name}
        onClick={event => {
          event.stopPropagation();
          open();
        }}
      >
        <bdi className="jp-GpuShare-cut">{head}</bdi>
        {tail && <bdi>{tail}</bdi>}
      </Button>
      <span className="jp-GpuShare-chip">{words.chip(row, gpus)}</span>
      <Button
        className="jp-GpuShare-more"
        tabIndex={stop}
        aria-haspopup="menu"
        aria-label={trans.__('More for %1', name)}
        title={trans.__('More')}
        onClick={event => {
          event.stopPropagation();
          openBelow(rowMenu(commands, kernelId, trans), event.currentTarget);
        }}
      >
        <ellipsesIcon.react tag="span" elementSize="normal" />
      </Button>
      {bytes > 0 && (
        <div className="jp-GpuShare-bar" aria-hidden="true">
          <span style={{ width: `${100 * clamped((row.used_bytes ?? 0) / bytes)}%` }} />
        </div>
      )}
      <div className="jp-GpuShare-line">
        <span className={`jp-GpuShare-then jp-mod-${row.state}`}>
          <State row={row} words={words} now={now} />
          {next && ` · ${next}`}
        </span>
        <span className="jp-GpuShare-side">
          {memory && <span title={trans.__('Memory in use')}>{memory}</span>}
          {isStuck(row) && few && !here && <WaysOut {...props} look="link" />}
          {row.state === 'released' && (
            <Doing {...shared} command={CommandIDs.wake} label={trans.__('Wake')} />
          )}
          {row.next?.action === 'release' && row.keep_until === null && !isWithoutGpu(row) && (
            <Doing {...shared} command={CommandIDs.keep} label={trans.__('Keep')} />
          )}
          {row.state === 'failed' && !here && <Dismiss {...props} />}
        </span>
      </div>
    </li>
  );
}
