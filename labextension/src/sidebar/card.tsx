import type { ISessionContext } from '@jupyterlab/apputils';
import { Button } from '@jupyterlab/ui-components';
import * as React from 'react';
import { CommandIDs, keepMenu } from '../commands';
import type { OtherName } from '../named';
import type { IAllocation, IHistory, IShare } from '../tokens';
import { heldBytes, isWithoutGpu, totalBytes } from './amounts';
import { Charts } from './charts';
import { useClock } from './clock';
import { isStuck, waits } from '../sizes';
import { Doing, More, Opener } from './controls';
import { STATE_ICONS } from './icons';
import type { IPanelProps } from './props';
import { Section } from './section';
import { timeline } from './timeline';
import type { SidebarWords } from './words';

interface ICardProps extends IPanelProps {
  session: ISessionContext | null;
  row: IAllocation | null;
  otherName: OtherName;
}

/** The share of the notebook that the user is in. */
export function Card(props: ICardProps): React.JSX.Element {
  const { row, session, trans, words } = props;
  const name = session?.name || (row === null ? undefined : words.name(row));
  return (
    <Section title={trans.__('This notebook')} summary={name}>
      {row === null ? (
        <p className="jp-GpuShare-muted">
          {session === null
            ? trans.__('Open a notebook or console to see its share.')
            : session.hasNoKernel
              ? trans.__('No kernel runs here, so there is no share.')
              : trans.__('This kernel has no share of a GPU.')}
        </p>
      ) : (
        <Share {...props} key={row.kernel_id} row={row} />
      )}
    </Section>
  );
}

function Share(props: ICardProps & { row: IAllocation }): React.JSX.Element {
  const { row, trans, shares, words } = props;
  // Seconds count only where something is counted down.
  const now = useClock(row.next === null ? 10_000 : 1000);
  const gpus = shares.status?.gpus ?? [];
  const { share } = row;
  const named = props.otherName(row);
  const held = share !== null && !isWithoutGpu(row) ? share : null;
  const past = shares.past(row.kernel_id);
  const line = timeline(past, shares.history(row.kernel_id), heldBytes(row), now);
  const drawn = held !== null || (row.state === 'released' && line.gaps.length > 0);
  return (
    <>
      {isWithoutGpu(row) && row.state !== 'failed' ? (
        <p className="jp-GpuShare-muted">{trans.__('This kernel runs without a GPU.')}</p>
      ) : (
        <>
          <div className="jp-GpuShare-head">
            <State row={row} words={words} now={now} />
            {held && <bdi className="jp-GpuShare-muted">{words.place(held)}</bdi>}
          </div>
          <p className={`jp-GpuShare-amount ${held ? '' : 'jp-mod-away'}`}>
            <strong>{words.amount(row, gpus)}</strong> <span>{words.part(row)}</span>
          </p>
        </>
      )}
      {named !== null && <p className="jp-GpuShare-muted">{words.named(named)}</p>}
      {drawn && (
        <Charts
          line={line}
          used={row.used_bytes}
          use={row.utilization}
          granted={held === null ? 0 : totalBytes(held)}
          words={words}
          trans={trans}
        />
      )}
      <Next {...props} now={now} />
      {row.kept.how === 'snapshot' && (row.kept.lost.length > 0 || line.gaps.length > 0) && (
        <Doing
          commands={props.commands}
          kernelId={row.kernel_id}
          command={CommandIDs.showLost}
          label={trans.__('Lost variables…')}
          look="link"
        />
      )}
      <Buttons {...props} />
      {!isWithoutGpu(row) && past !== null && heldEver(past) && (
        <Account history={past} now={now} {...props} />
      )}
      {held && <Isolation share={held} {...props} />}
    </>
  );
}

/** Where a kernel stands: a mark and a few words. */
export function State({
  row,
  words,
  now
}: {
  row: IAllocation;
  words: SidebarWords;
  now: number;
}): React.JSX.Element {
  const Mark = STATE_ICONS[row.state].react;
  const warned = row.next?.action === 'release' && row.keep_until === null;
  const none = isWithoutGpu(row) ? 'jp-mod-none' : '';
  return (
    <span className={`jp-GpuShare-state jp-mod-${warned ? 'warned' : row.state} ${none}`}>
      <Mark tag="span" aria-hidden="true" elementSize="normal" />
      <span>{words.state(row, now)}</span>
    </span>
  );
}

/** What happens next, when, and why. */
function Next({
  row,
  shares,
  trans,
  words,
  now
}: ICardProps & { row: IAllocation; now: number }): React.JSX.Element | null {
  const says = words.next(row, shares.status?.turns[row.kernel_id], now);
  const leaves = row.next?.action === 'release' && row.keep_until === null;
  const kept = leaves || row.state === 'released' ? words.kept(row.kept) : '';
  // A released share says all that the server says of it, and sooner.
  const reason = row.state === 'released' && row.kept.how !== 'none' ? '' : row.reason;
  if (!says && !reason) {
    return null;
  }
  const plain = row.state === 'active' && row.next === null && row.keep_until === null;
  const look =
    row.state === 'failed'
      ? 'jp-mod-failed'
      : leaves
        ? 'jp-mod-warned'
        : plain
          ? 'jp-mod-plain'
          : '';
  return (
    <div className={`jp-GpuShare-next ${look}`}>
      {row.state === 'failed' && <p>{trans.__('The kernel has no share:')}</p>}
      {says && (
        <p>
          {says} {kept}
        </p>
      )}
      {reason && <p className="jp-GpuShare-reason">{reason}</p>}
      {row.state === 'failed' && (
        <p>
          <More page="troubleshooting" label={trans.__('What messages mean')} />
        </p>
      )}
      {leaves && (
        <p>
          <More page="idle" label={trans.__('More about idle shares')} />
        </p>
      )}
    </div>
  );
}

function Buttons(props: ICardProps & { row: IAllocation }): React.JSX.Element {
  const { row, trans, commands } = props;
  const shared = { commands, kernelId: row.kernel_id };
  const lies = row.share !== null && !isWithoutGpu(row);
  const withCommands = commands.hasCommand(CommandIDs.changeSize);
  return (
    <div className="jp-GpuShare-buttons">
      {row.state === 'released' && (
        <Doing {...shared} command={CommandIDs.wake} label={trans.__('Wake')} look="primary" />
      )}
      <Doing
        {...shared}
        command={CommandIDs.changeSize}
        label={trans.__('Change…')}
        {...(row.state === 'released' ? {} : { look: 'primary' as const })}
      />
      {lies && withCommands && (
        <Opener
          label={trans.__('Keep')}
          name={trans.__('Keep the share for a time')}
          menu={() => keepMenu(commands, row.kernel_id, trans.__('Keep'))}
        />
      )}
      {lies && <Doing {...shared} command={CommandIDs.giveBack} label={trans.__('Give Back')} />}
      {isStuck(row) && <WaysOut {...props} />}
      {waits(row) && (
        <Doing {...shared} command={CommandIDs.giveBack} label={trans.__('Stop Waiting')} />
      )}
      {row.state === 'failed' && <Dismiss {...props} />}
    </div>
  );
}

/** Buttons for who does not want to wait, or could not start. */
export function WaysOut({
  row,
  commands,
  trans,
  words,
  look
}: IPanelProps & { row: IAllocation; look?: 'link' }): React.JSX.Element {
  const shared = { commands, kernelId: row.kernel_id };
  // In a list it is said whose it is.
  const more = look === undefined ? {} : { look, of: words.name(row) };
  const free = trans.__('Take What Is Free');
  const without = trans.__('Start Without a GPU');
  return (
    <>
      <Doing {...shared} {...more} command={CommandIDs.takeFree} label={free} />
      <Doing {...shared} {...more} command={CommandIDs.withoutGpu} label={without} />
    </>
  );
}

/** A button that puts away why a kernel failed. */
export function Dismiss({
  row,
  trans,
  shares
}: IPanelProps & { row: IAllocation }): React.JSX.Element {
  return (
    <Button
      className="jp-mod-styled jp-GpuShare-plain"
      onClick={event => {
        event.stopPropagation();
        shares.forget(row.kernel_id);
      }}
    >
      {trans.__('Hide')}
    </Button>
  );
}

function heldEver({ held_since, gpu_hours }: IHistory): boolean {
  return held_since !== null || gpu_hours > 0;
}

/** Since when the share is held, what it cost, and what its idle time gave to others. */
function Account({
  history,
  now,
  trans,
  words
}: IPanelProps & { history: IHistory; now: number }): React.JSX.Element {
  const { held_since: since } = history;
  const hours = trans.__(
    'GPU-hours: part of a GPU, times hours. Counted since this server knows the kernel.'
  );
  const given = `${trans.__('What others could use while this share was given back.')} ${hours}`;
  return (
    <dl className="jp-GpuShare-account">
      <dt>{trans.__('Held for')}</dt>
      <dd>{since === null ? '–' : words.span(now - Date.parse(since))}</dd>
      <dt title={hours}>{trans.__('Used')}</dt>
      <dd title={hours}>{trans.__('%1 GPU-hours', words.hours(history.gpu_hours))}</dd>
      <dt title={given}>{trans.__('Given to others')}</dt>
      <dd title={given}>{trans.__('%1 GPU-hours', words.hours(history.returned_gpu_hours))}</dd>
    </dl>
  );
}

/** What keeps the share apart, in one phrase, and more where it is asked for. */
function Isolation({ share, trans, words }: IPanelProps & { share: IShare }): React.JSX.Element {
  const [open, setOpen] = React.useState(false);
  const id = React.useId();
  return (
    <div className="jp-GpuShare-isolation">
      <p>
        {words.isolation(share)}{' '}
        <Button
          className="jp-GpuShare-link"
          aria-expanded={open}
          aria-controls={id}
          onClick={() => {
            setOpen(!open);
          }}
        >
          {open ? trans.__('Less') : trans.__('Why?')}
        </Button>
      </p>
      <p id={id} hidden={!open}>
        {words.isolationWhy(share.isolation)}{' '}
        <More page="isolation" label={trans.__('More about limits')} />
      </p>
    </div>
  );
}
