import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { IDisposable } from '@lumino/disposable';
import type { Message } from '@lumino/messaging';
import * as React from 'react';
import type { CurrentKernel } from './current';
import { useChanges } from './hooks';
import { Card } from './sidebar/card';
import { FocusKeeper } from './sidebar/focus';
import { Gpus } from './sidebar/gpus';
import { Limits } from './sidebar/limits';
import { List } from './sidebar/list';
import { SidebarWords } from './sidebar/words';
import { gpuIcon } from './icon';
import type { OtherName } from './named';
import type { IShares } from './tokens';

/** What the sidebar is made from. */
export interface ISidebarProps {
  shares: IShares;
  current: CurrentKernel;
  commands: CommandRegistry;
  trans: TranslationBundle;
  otherName: OtherName;
}

/** The panel at the right. Readings are polled while it is seen. */
export class Sidebar extends ReactWidget {
  constructor(private readonly _props: ISidebarProps) {
    super();
    this.addClass('jp-GpuShare-sidebar');
    this.node.setAttribute('role', 'region');
    // The tool that extracts texts finds those of `trans` and `this._trans`.
    const { trans } = _props;
    this.node.setAttribute('aria-label', trans.__('GPU shares'));
    this.node.tabIndex = -1;
    this._words = new SidebarWords(trans);
    this._focus = new FocusKeeper(this.node);
  }

  override dispose(): void {
    this._observing?.dispose();
    this._focus.dispose();
    super.dispose();
  }

  /** Called when a person asks for the panel: its first control is one Tab away. */
  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    this.node.focus();
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
    return <Panel {...this._props} words={this._words} />;
  }

  private _observe(): void {
    this._observing ??= this._props.shares.observe();
  }

  private readonly _words: SidebarWords;
  private readonly _focus: FocusKeeper;
  private _observing: IDisposable | null = null;
}

interface IPanelProps extends ISidebarProps {
  words: SidebarWords;
}

function Panel(props: IPanelProps): React.JSX.Element {
  const { shares, current, trans } = props;
  useChanges(shares.changed, current.changed);
  const { session } = current;
  const rows = [...shares.allocations.values()];
  const held = current.allocation;
  const followed = held !== null && held.state !== 'failed' ? held.kernel_id : null;
  React.useEffect(() => {
    shares.follow(followed);
  }, [shares, followed]);
  const calm = calmly(shares, trans, rows.length === 0);
  if (calm !== null) {
    return (
      <div className="jp-GpuShare-calm" role="status">
        <gpuIcon.react tag="span" elementSize="xlarge" aria-hidden="true" />
        <p>{calm}</p>
      </div>
    );
  }
  return (
    <>
      <Card {...props} row={held} session={session} />
      <List {...props} rows={rows} current={held} />
      <Limits {...props} />
      <Gpus {...props} rows={rows} />
    </>
  );
}

/** What is said instead of everything else; null where there is something to show. */
function calmly(shares: IShares, trans: TranslationBundle, empty: boolean): string | null {
  switch (shares.health) {
    case 'loading':
      return trans.__('Asking the server for GPU shares…');
    case 'away':
      return trans.__('The server does not answer. This view is back when it is.');
    case 'missing':
      return trans.__('This server gives no GPU shares: jupyter_gpu_share is not enabled on it.');
    case 'forbidden':
      return trans.__('You may not see GPU shares on this server. Ask its administrator.');
    case 'failed':
      return trans.__('GPU shares cannot be shown: %1', shares.problem);
    case 'ready': {
      const { status } = shares;
      const none = empty && status !== null && status.gpus.length === 0;
      return none ? (status.problem ?? trans.__('There is no GPU now.')) : null;
    }
  }
}
