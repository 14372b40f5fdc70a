import type { ISessionContext } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import * as React from 'react';
import { shareOf } from './current';
import { useChanges, useNow } from './hooks';
import { openShareMenu } from './menus';
import type { OtherName } from './named';
import type { IShares } from './tokens';
import { MARKS, shortSize, Words } from './words';

export interface IToolbarItemProps {
  session: ISessionContext;
  shares: IShares;
  commands: CommandRegistry;
  trans: TranslationBundle;
  otherName: OtherName;
}

/**
 * The share of a notebook's kernel, in its toolbar. It takes what room the others leave, and says
 * less where that is little.
 */
export class ToolbarItem extends ReactWidget {
  constructor(private readonly _props: IToolbarItemProps) {
    super();
    this.addClass('jp-GpuShare-toolbar');
    // Lab's toolbar measures each item once, and moves the last ones into a menu if all together
    // are too wide. This one never drives out another.
    Object.defineProperty(this.node, 'clientWidth', { get: () => 0 });
  }

  protected override render(): React.JSX.Element {
    return <Item {...this._props} />;
  }
}

function Item(props: IToolbarItemProps): React.JSX.Element | null {
  const { session, shares, commands, trans, otherName } = props;
  useChanges(shares.changed, session.kernelChanged);
  const row = shareOf(shares, session);
  const now = useNow(row !== null && row.next !== null);
  if (row === null) {
    return null;
  }
  const words = new Words(trans);
  const state = words.state(row, now);
  const label = words.label(row);
  const named = otherName(row);
  const more = [row.reason, named === null ? '' : words.named(named)].filter(Boolean);
  const short = row.size === '0' ? '0' : shortSize(row.size);
  return (
    <button
      className={`jp-ToolbarButtonComponent jp-mod-minimal jp-Button jp-mod-${row.state}`}
      aria-haspopup="menu"
      aria-label={trans.__('%1, %2. Change, keep or give back', label, state)}
      title={[`${label}, ${state}`, ...more].join('. ')}
      onClick={event => {
        openShareMenu(commands, shares, row.kernel_id, trans, event.currentTarget);
      }}
    >
      <span aria-hidden="true">{MARKS[row.state]}</span>
      <span className="jp-GpuShare-short" aria-hidden="true">
        {short}
      </span>
      <span className="jp-GpuShare-label">{label}</span>
      <span className="jp-GpuShare-word">{state}</span>
    </button>
  );
}
