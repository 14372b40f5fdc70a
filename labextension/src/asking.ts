import { Dialog } from '@jupyterlab/apputils';

/** A dialog that stays open, with a reason, as long as what is written in it is refused. */
export class AskingDialog<T> extends Dialog<T> {
  /**
   * @param options - The last button is the one that accepts.
   * @param _accepts - Whether it may close; says itself why it may not.
   */
  constructor(
    options: Partial<Dialog.IOptions<T>> & { buttons: readonly Dialog.IButton[] },
    private readonly _accepts: () => Promise<boolean>
  ) {
    super(options);
    this._accepting = options.buttons.length - 1;
  }

  override resolve(index = this._accepting): void {
    if (index !== this._accepting) {
      super.resolve(index);
    } else if (!this._asks) {
      void this._ask(index);
    }
  }

  private async _ask(index: number): Promise<void> {
    this._asks = true;
    this.node.setAttribute('aria-busy', 'true');
    const accepted = await this._accepts().catch(() => true);
    this._asks = false;
    this.node.removeAttribute('aria-busy');
    if (accepted && !this.isDisposed) {
      super.resolve(index);
    }
  }

  private readonly _accepting: number;
  private _asks = false;
}
