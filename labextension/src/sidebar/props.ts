import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { IShares } from '../tokens';
import type { SidebarWords } from './words';

/** What every part of the panel is made from. */
export interface IPanelProps {
  shares: IShares;
  commands: CommandRegistry;
  trans: TranslationBundle;
  words: SidebarWords;
}
