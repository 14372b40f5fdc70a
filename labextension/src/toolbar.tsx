import type { ISessionContext } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import * as React from 'react';
import { shareMenu } from './commands';
import { shareOf } from './current';
import { useChanges, useNow } from './hooks';
import type { IShares } from './tokens';
import { MARKS, Words } from './words';

export interface IToolbarItemProps {
  session: ISessionContext;
  shares: IShares;
  commands: CommandRegistry;
  trans: TranslationBundle;
}

/** The share of a notebook's kernel, in its toolbar. */
export class ToolbarItem extends ReactWidget {
  constructor(private readonly _props: IToolbarItemProps) {
    super();
    this.addClass('jp-GpuShare-toolbar');
  }

  protected override render(): React.JSX.Element {
    return <Item {...this._props} />;
  }
}

function Item({ session, shares, commands, trans }: IToolbarItemProps): React.JSX.Element | null {
  useChanges(shares.changed, session.kernelChanged);
  const row = shareOf(shares, session);
  const now = useNow(row !== null && row.next !== null);
  if (row === null) {
    return null;
  }
  const words = new Words(trans);
  const state = words.state(row, now);
  const label = words.label(row);
  return (
    <button
      className={`jp-ToolbarButtonComponent jp-mod-minimal jp-Button jp-mod-${row.state}`}
      aria-haspopup="menu"
      aria-label={trans.__('%1, %2. Change, keep or give back', label, state)}
      title={row.reason}
      onClick={event => {
        const { left, bottom } = event.currentTarget.getBoundingClientRect();
        void shares
          .refreshSizes()
          .catch(() => undefined)
          .then(() => shareMenu(commands, shares, row.kernel_id, trans).open(left, bottom));
      }}
    >
      <span aria-hidden="true">{MARKS[row.state]}</span>
      <span className="jp-GpuShare-label">{label}</span>
      <span className="jp-GpuShare-word">{state}</span>
    </button>
  );
}
