import { Dialog, Notification, showDialog } from '@jupyterlab/apputils';
import { ServerConnection } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import { AskingDialog } from './asking';
import { serverNow } from './clock';
import { lostBody } from './lost';
import { SizeField } from './sizefield';
import { largestFree, waits } from './sizes';
import type { OtherName } from './named';
import type { IAllocation, IShares } from './tokens';
import { fileName, shortSize, Words } from './words';

/** Milliseconds after which work is said to be under way. */
const SLOW = 500;

/** What a person does with a share: asks where something is lost, and says how it went. */
export class Actions {
  /**
   * @param _startAgain - Start a kernel for a notebook whose start failed, with a size.
   * @param _otherName - The size that a kernelspec names, where a kernel has another.
   */
  constructor(
    private readonly _shares: IShares,
    private readonly _trans: TranslationBundle,
    private readonly _startAgain?: (row: IAllocation, size: string) => Promise<void>,
    private readonly _otherName: OtherName = () => null
  ) {
    this._words = new Words(_trans);
  }

  /** Say why nothing can be done while the server is away. */
  away(): void {
    Notification.error(unanswered(this._trans), { autoClose: false });
  }

  /** The name under which a person knows a kernel. */
  name(row: IAllocation): string {
    return row.path === null ? row.kernel_name : fileName(row.path);
  }

  /** Change the size; without one, ask for it. Variables are lost only if that is agreed to. */
  async changeSize(row: IAllocation, size?: string): Promise<void> {
    const trans = this._trans;
    const title = trans.__('Change the share of %1', this.name(row));
    const wanted = size ?? (await this._askSize(row, title));
    if (wanted === null) {
      return;
    }
    if (row.state === 'failed') {
      return this.start(row, wanted);
    }
    const kept = await this._asking(row, this._shares.keptByResize(row.kernel_id, wanted));
    if (kept === null) {
      return;
    }
    const lost = this._words.lost(kept);
    const way = this._words.way(kept);
    const body = `${trans.__('To %1.', shortSize(wanted))} ${way} ${lost}`;
    if (lost && !(await this._agreed(title, body, trans.__('Restart and Change')))) {
      return;
    }
    await this._told(this._shares.resize(row.kernel_id, wanted, lost !== ''), {
      pending: `${trans.__('Changing the share of %1 to %2…', this.name(row), shortSize(wanted))} ${way}`,
      done: `${trans.__('%1 has a share of %2.', this.name(row), shortSize(wanted))} ${this._named(row, wanted)}`
    });
  }

  /** What is to be said of a change that makes the name of the kernelspec untrue. */
  private _named(row: IAllocation, size: string): string {
    const named = this._otherName({ ...row, size });
    return named === null ? '' : this._words.named(named);
  }

  private async _askSize(row: IAllocation, title: string): Promise<string | null> {
    const trans = this._trans;
    // It opens at once; which sizes are free an engine may take seconds to tell.
    const field = new SizeField(this._shares.sizes, this._words, trans);
    field.offer({ size: row.size, standard: null, locked: null });
    this._shares.sizesFor(row.kernel_id).then(
      sizes => (field.isDisposed ? undefined : field.know(sizes)),
      (error: unknown) => (field.isDisposed ? undefined : field.refuse(line(error, trans)))
    );
    const text = document.createElement('p');
    text.textContent = trans.__('You are asked before any variable is lost.');
    field.node.append(text);
    const buttons = [Dialog.cancelButton(), Dialog.okButton({ label: trans.__('Change') })];
    const accepts = async (): Promise<boolean> => {
      if (row.state === 'failed') {
        return true;
      }
      try {
        await this._shares.keptByResize(row.kernel_id, field.size ?? row.size);
        return true;
      } catch (error) {
        field.refuse(line(error, trans));
        return false;
      }
    };
    const options = { title, body: field, buttons, focusNodeSelector: 'select' };
    const result = await new AskingDialog(options, accepts).launch();
    return result.button.accept ? field.size : null;
  }

  /** Have a kernel that waits, or could not start, go on with another size. */
  async start(row: IAllocation, size: string): Promise<void> {
    const work =
      row.state === 'failed'
        ? (this._startAgain?.(row, size) ?? Promise.resolve())
        : this._shares.resize(row.kernel_id, size, true);
    await this._failing(work);
  }

  /** Have it go on with the largest share that is free. */
  async takeFree(row: IAllocation): Promise<void> {
    const sizes = await this._asking(row, this._shares.sizesFor(row.kernel_id));
    if (sizes === null) {
      return;
    }
    const free = largestFree(sizes.sizes);
    if (free === null) {
      Notification.info(this._trans.__('No share of a GPU is free now.'), { autoClose: 5000 });
      return;
    }
    await this.start(row, free.size);
  }

  /** Give back all shares that can be had back without loss; says which stay. */
  async giveBackAll(rows: readonly IAllocation[]): Promise<void> {
    const stay: string[] = [];
    for (const row of rows.filter(each => each.share !== null)) {
      try {
        if (this._words.lost(await this._shares.keptByRelease(row.kernel_id))) {
          stay.push(this.name(row));
        } else {
          await this._shares.release(row.kernel_id, false);
        }
      } catch {
        stay.push(this.name(row));
      }
    }
    if (stay.length > 0) {
      const text = this._trans.__(
        'These keep their share, as a cell runs or variables would be lost: %1.',
        stay.join(', ')
      );
      Notification.warning(text, { autoClose: false });
    }
  }

  /** Keep the share for some minutes even if it is not used. */
  async keep(row: IAllocation, minutes: number): Promise<void> {
    const until = new Date(serverNow() + minutes * 60 * 1000);
    await this._failing(this._shares.keep(row.kernel_id, until));
  }

  async stopKeeping(row: IAllocation): Promise<void> {
    await this._failing(this._shares.keep(row.kernel_id, null));
  }

  /** Give the share back; where that loses something, only if it is agreed to. */
  async giveBack(row: IAllocation): Promise<void> {
    const trans = this._trans;
    const inQueue = waits(row);
    if (row.share === null && !inQueue) {
      return; // it was given back meanwhile
    }
    const kept = inQueue
      ? row.kept
      : await this._asking(row, this._shares.keptByRelease(row.kernel_id));
    if (kept === null) {
      return;
    }
    const lost = inQueue ? '' : this._words.lost(kept);
    const title = trans.__('Give back the share of %1?', this.name(row));
    if (lost && !(await this._agreed(title, lost, trans.__('Give Back')))) {
      return;
    }
    await this._told(this._shares.release(row.kernel_id, lost !== ''), {
      pending: trans.__('Giving back the share of %1…', this.name(row)),
      done: inQueue
        ? trans.__('%1 no longer waits.', this.name(row))
        : trans.__('The share of %1 is given back.', this.name(row))
    });
  }

  private async _agreed(title: string, body: string, label: string): Promise<boolean> {
    const buttons = [Dialog.cancelButton(), Dialog.warnButton({ label })];
    return (await showDialog({ title, body, buttons })).button.accept;
  }

  /** Show all that was lost, one by one. */
  async showLost(row: IAllocation): Promise<void> {
    const trans = this._trans;
    const report = await this._asking(row, this._shares.report(row.kernel_id));
    if (report === null) {
      return;
    }
    const remove = Dialog.warnButton({ label: trans.__('Remove the files') });
    const close = Dialog.okButton({ label: trans.__('Close') });
    const result = await showDialog({
      title: trans.__('Lost variables of %1', this.name(row)),
      body: lostBody(report, trans),
      buttons: report.aside.length > 0 ? [remove, close] : [close],
      defaultButton: report.aside.length > 0 ? 1 : 0
    });
    if (result.button.label === remove.label) {
      await this._failing(this._shares.forgetReport(row.kernel_id));
    }
  }

  async wake(row: IAllocation): Promise<void> {
    await this._failing(this._shares.wake(row.kernel_id));
  }

  /** Say that work is under way where it takes long, and how it ended. */
  private async _told(work: Promise<void>, said: { pending: string; done: string }): Promise<void> {
    const outcome = work.then(
      () => null,
      (error: unknown) => line(error, this._trans)
    );
    const problem = await this._slowly(outcome, said.pending);
    if (problem === null) {
      Notification.success(said.done, { autoClose: 3000 });
    } else {
      Notification.error(problem, { autoClose: false });
    }
  }

  /** Say that the server is asked, where that takes long; what it said, null where it failed. */
  private async _asking<T>(row: IAllocation, work: Promise<T>): Promise<T | null> {
    const pending = this._trans.__('Asking about the share of %1…', this.name(row));
    return this._slowly(this._failing(work), pending);
  }

  private async _slowly<T>(work: Promise<T>, pending: string): Promise<T> {
    if ((await Promise.race([work, after(SLOW)])) === undefined) {
      const id = Notification.emit(pending, 'in-progress', { autoClose: false });
      // The first message of a page is put up some time after it was given, and one that is taken
      // back before would stay.
      await Promise.all([work, after(SLOW)]);
      Notification.dismiss(id);
    }
    return work;
  }

  /** Say only that it failed, with null: success is seen where the share is shown. */
  private async _failing<T>(work: Promise<T>): Promise<T | null> {
    try {
      return await work;
    } catch (error) {
      Notification.error(line(error, this._trans), { autoClose: false });
      return null;
    }
  }

  private readonly _words: Words;
}

/** What went wrong, in one line. */
export function line(error: unknown, trans: TranslationBundle): string {
  if (error instanceof ServerConnection.NetworkError) {
    return unanswered(trans);
  }
  return error instanceof Error ? error.message : String(error);
}

function unanswered(trans: TranslationBundle): string {
  return trans.__('The server does not answer. Try again when it does.');
}

function after(milliseconds: number): Promise<undefined> {
  return new Promise(resolve => {
    setTimeout(resolve, milliseconds, undefined);
  });
}
