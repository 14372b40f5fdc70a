import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import * as React from 'react';
import { serverNow } from './clock';
import { CommandIDs } from './commands';
import type { CurrentKernel } from './current';
import { useChanges } from './hooks';
import type { IShares } from './tokens';
import { MARKS, Words } from './words';

export interface IStatusItemProps {
  shares: IShares;
  current: CurrentKernel;
  commands: CommandRegistry;
  trans: TranslationBundle;
}

/** The current kernel's share in the status bar; of one width in most languages: nothing jumps. */
export class StatusItem extends ReactWidget {
  constructor(private readonly _props: IStatusItemProps) {
    super();
    this.addClass('jp-GpuShare-status');
  }

  protected override render(): React.JSX.Element {
    return <Item {...this._props} />;
  }
}

function Item({ shares, current, commands, trans }: IStatusItemProps): React.JSX.Element {
  useChanges(shares.changed, current.changed);
  const row = current.allocation;
  const words = new Words(trans);
  const label = row === null ? trans.__('No GPU share') : words.label(row);
  const said = row === null ? label : `${label}, ${words.state(row, serverNow())}`;
  return (
    <button
      aria-label={trans.__('%1. Show GPU shares', said)}
      title={row?.reason}
      onClick={() => {
        if (commands.hasCommand(CommandIDs.show)) {
          void commands.execute(CommandIDs.show);
        }
      }}
    >
      {row !== null && <span aria-hidden="true">{MARKS[row.state]} </span>}
      {label}
    </button>
  );
}
