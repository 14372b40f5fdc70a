import type { ISessionContext } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { IDisposable } from '@lumino/disposable';
import type { Message } from '@lumino/messaging';
import type { Menu } from '@lumino/widgets';
import * as React from 'react';
import { CommandIDs, keepMenu, shareMenu } from './commands';
import type { CurrentKernel } from './current';
import { useChanges, useNow } from './hooks';
import { Plot } from './plot';
import type { IAllocation, IGpu, IShares } from './tokens';
import { clock, fileName, gibibytes, MARKS, shortModel, shortSize, Words } from './words';

/** What the sidebar is made from. */
export interface ISidebarProps {
  shares: IShares;
  current: CurrentKernel;
  commands: CommandRegistry;
  trans: TranslationBundle;
}

/** The panel at the right. Readings are polled while it is seen. */
export class Sidebar extends ReactWidget {
  constructor(private readonly _props: ISidebarProps) {
    super();
    this.addClass('jp-GpuShare-sidebar');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', _props.trans.__('GPU shares'));
  }

  override dispose(): void {
    this._observing?.dispose();
    super.dispose();
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._observe();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.isVisible) {
      this._observe();
    }
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this._observing?.dispose();
    this._observing = null;
  }

  protected override render(): React.JSX.Element {
    return <Panel {...this._props} />;
  }

  private _observe(): void {
    this._observing ??= this._props.shares.observe();
  }

  private _observing: IDisposable | null = null;
}

function Panel(props: ISidebarProps): React.JSX.Element {
  const { shares, current, trans } = props;
  useChanges(shares.changed, current.changed);
  const calm = calmly(shares, trans);
  const rows = [...shares.allocations.values()];
  const now = useNow(calm === null && rows.length > 0);
  if (calm !== null) {
    return (
      <div className="jp-GpuShare-calm" role="status">
        {calm}
      </div>
    );
  }
  const held = current.allocation;
  const others = rows.filter(row => row !== held);
  return (
    <>
      <Current {...props} row={held} session={current.session} now={now} />
      <Section title={trans.__('My other kernels')}>
        {others.length > 0 ? (
          <ul className="jp-GpuShare-list">
            {others.map(row => (
              <Row key={row.kernel_id} {...props} row={row} now={now} />
            ))}
          </ul>
        ) : (
          <p>{trans.__('No other kernel of this server has a share.')}</p>
        )}
      </Section>
      <Free {...props} />
    </>
  );
}

/** What is said instead of everything else; null where there is something to show. */
function calmly(shares: IShares, trans: TranslationBundle): string | null {
  switch (shares.health) {
    case 'loading':
      return trans.__('Asking the server for GPU shares…');
    case 'away':
      return trans.__('The server does not answer. Kernels go on; this view is back when it is.');
    case 'missing':
      return trans.__('This server gives no GPU shares: jupyter_gpu_share is not enabled on it.');
    case 'forbidden':
      return trans.__('You may not see GPU shares on this server. Ask its administrator.');
    case 'failed':
      return trans.__('GPU shares cannot be shown: %1', shares.problem);
    case 'ready':
      return null;
  }
}

function Section({
  title,
  children
}: React.PropsWithChildren<{ title: string }>): React.JSX.Element {
  const id = React.useId();
  return (
    <section aria-labelledby={id}>
      <h2 id={id}>{title}</h2>
      {children}
    </section>
  );
}

interface ICurrentProps extends ISidebarProps {
  row: IAllocation | null;
  session: ISessionContext | null;
  now: number;
}

/** The share of the notebook that the user is in. */
function Current(props: ICurrentProps): React.JSX.Element {
  const { row, session, trans, shares, commands, now } = props;
  const words = new Words(trans);
  if (row === null) {
    return (
      <Section title={trans.__('This notebook')}>
        <p>
          {session === null
            ? trans.__('Open a notebook or console to see its share.')
            : session.hasNoKernel
              ? trans.__('%1 has no kernel.', session.name)
              : trans.__('The kernel of %1 has no share of a GPU.', session.name)}
        </p>
      </Section>
    );
  }
  const { share } = row;
  return (
    <Section title={session?.name || nameOf(row, session)}>
      <div className={`jp-GpuShare-state jp-mod-${row.state}`}>
        <span aria-hidden="true">{MARKS[row.state]}</span> {words.state(row, now)}
      </div>
      {row.reason && row.state !== 'active' && <p className="jp-GpuShare-reason">{row.reason}</p>}
      <p>
        <strong>{row.size === '0' ? trans.__('No GPU') : shortSize(row.size)}</strong>
        {share && ` · ${words.share(share)}`}
      </p>
      {share && <Readings {...props} row={row} granted={share.memory_bytes} />}
      {share && <p>{words.isolation(share.isolation)}</p>}
      <p>{words.next(row, now)}</p>
      <div className="jp-GpuShare-buttons">
        <Opener
          label={trans.__('Change size')}
          name={trans.__('Change size of the share')}
          menu={async () => {
            await shares.refreshSizes().catch(() => undefined);
            return shareMenu(commands, shares, row.kernel_id, trans);
          }}
        />
        {share && (
          <Opener
            label={trans.__('Keep')}
            name={trans.__('Keep the share for a time')}
            menu={() => Promise.resolve(keepMenu(commands, row.kernel_id, trans))}
          />
        )}
        <Doing {...props} row={row} command={CommandIDs.giveBack} label={leaving(row, trans)} />
        {row.state === 'released' && (
          <Doing {...props} row={row} command={CommandIDs.wake} label={trans.__('Wake')} />
        )}
      </div>
    </Section>
  );
}

function leaving(row: IAllocation, trans: TranslationBundle): string {
  return row.queue === null ? trans.__('Give back') : trans.__('Stop waiting');
}

/** Memory and use of the last minutes. */
function Readings({
  row,
  granted,
  shares,
  trans,
  now
}: ICurrentProps & { row: IAllocation; granted: number }): React.JSX.Element {
  const readings = shares.history(row.kernel_id);
  const unknown = trans.__('unknown');
  const memory =
    row.used_bytes === null
      ? unknown
      : trans.__('%1 of %2', gibibytes(row.used_bytes), gibibytes(granted));
  const use = row.utilization === null ? unknown : `${Math.round(row.utilization * 100)} %`;
  return (
    <dl className="jp-GpuShare-readings">
      <dt>{trans.__('memory')}</dt>
      <dd>
        <Plot
          label={trans.__('Memory in the last minutes; now %1', memory)}
          now={now}
          points={readings.map(({ at, used }) => [at, used === null ? null : used / granted])}
        />
        <span>{memory}</span>
      </dd>
      <dt>{trans.__('use')}</dt>
      <dd>
        <Plot
          label={trans.__('Use of the GPU in the last minutes; now %1', use)}
          now={now}
          points={readings.map(({ at, utilization }) => [at, utilization])}
        />
        <span>{use}</span>
      </dd>
    </dl>
  );
}

interface IRowProps extends ISidebarProps {
  row: IAllocation;
  now: number;
}

/** One of the other kernels, with what is most likely wanted of it. */
function Row(props: IRowProps): React.JSX.Element {
  const { row, trans, now } = props;
  const words = new Words(trans);
  const name = nameOf(row, null);
  const [command, label] =
    row.state === 'released'
      ? [CommandIDs.wake, trans.__('Wake')]
      : row.next !== null && row.keep_until === null
        ? [CommandIDs.keep, trans.__('Keep')]
        : [CommandIDs.giveBack, leaving(row, trans)];
  return (
    <li className={`jp-mod-${row.state}`} title={row.reason}>
      <span aria-hidden="true">{MARKS[row.state]}</span>
      <bdi className="jp-GpuShare-name" title={row.path ?? row.kernel_name}>
        {name}
      </bdi>
      <span>{row.share === null ? '–' : shortSize(row.size)}</span>
      <span className="jp-GpuShare-word">
        {row.state === 'released' && row.idle_since
          ? trans.__('given back, unused since %1', clock(row.idle_since))
          : words.state(row, now)}
      </span>
      <Doing {...props} command={command} label={label} of={name} />
    </li>
  );
}

function nameOf(row: IAllocation, session: ISessionContext | null): string {
  return session?.name || (row.path === null ? row.kernel_name : fileName(row.path));
}

/** A button that runs a command for a kernel; not there where the command cannot run. */
function Doing({
  commands,
  command,
  label,
  of,
  row
}: ISidebarProps & {
  command: string;
  label: string;
  of?: string;
  row: IAllocation;
}): React.JSX.Element | null {
  const args = { kernelId: row.kernel_id };
  if (!commands.hasCommand(command) || !commands.isEnabled(command, args)) {
    return null;
  }
  return (
    <button
      className="jp-Button jp-mod-styled jp-mod-minimal"
      aria-label={of === undefined ? undefined : `${label}: ${of}`}
      title={commands.caption(command, args)}
      onClick={() => void commands.execute(command, args)}
    >
      {label}
    </button>
  );
}

/** A button that opens a menu below itself. */
function Opener({
  label,
  name,
  menu
}: {
  label: string;
  name: string;
  menu: () => Promise<Menu>;
}): React.JSX.Element {
  return (
    <button
      className="jp-Button jp-mod-styled jp-mod-minimal"
      aria-haspopup="menu"
      aria-label={name}
      onClick={event => {
        const { left, bottom } = event.currentTarget.getBoundingClientRect();
        void menu().then(opened => opened.open(left, bottom));
      }}
    >
      {label} <span aria-hidden="true">▾</span>
    </button>
  );
}

/** What is free, by model, and how many kernels wait. */
function Free({ shares, trans }: ISidebarProps): React.JSX.Element {
  const { status } = shares;
  const words = new Words(trans);
  const models = new Map<string, IGpu[]>();
  for (const gpu of status?.gpus ?? []) {
    const name = gpu.profile ? `${shortModel(gpu.model)} ${gpu.profile}` : shortModel(gpu.model);
    models.set(name, [...(models.get(name) ?? []), gpu]);
  }
  return (
    <Section title={trans.__('Free now')}>
      {status?.simulated && <p>{trans.__('These GPUs are simulated: nothing runs on a chip.')}</p>}
      {[...models].map(([model, gpus]) => (
        <div key={model} className="jp-GpuShare-free">
          <span>{model}</span>
          <meter
            aria-label={trans.__('Free memory of %1', model)}
            value={gpus.reduce((sum, gpu) => sum + gpu.free_bytes, 0)}
            max={gpus.reduce((sum, gpu) => sum + gpu.memory_bytes, 0)}
          />
          <span>{words.free(gpus)}</span>
        </div>
      ))}
      {status === null && <p>{trans.__('Asking for the GPUs…')}</p>}
      {status !== null && models.size === 0 && (
        <p>{status.problem ?? trans.__('This server has no GPU.')}</p>
      )}
      {status?.queue ? (
        <p>{trans._n('%1 kernel waits.', '%1 kernels wait.', status.queue)}</p>
      ) : null}
    </Section>
  );
}
