import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { IShares } from '../tokens';
import type { Failures } from './failures';
import type { SidebarWords } from './words';

/** What every part of the panel is made from. */
export interface IPanelProps {
  shares: IShares;
  commands: CommandRegistry;
  trans: TranslationBundle;
  words: SidebarWords;
  /** Kernels that failed and are gone. */
  failures: Failures;
  /** Put away why one of them failed. */
  dismiss: (kernelId: string) => void;
}
