import { Dialog, SessionContextDialogs, type ISessionContext } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import { PanelLayout, Widget } from '@lumino/widgets';
import { line, type Actions } from './actions';
import { AskingDialog } from './asking';
import { choiceKey } from './choices';
import { SizeField, type IPick } from './sizefield';
import type { IAllocation, IChoice, IShares, ISizeChoices, ISizes } from './tokens';
import { Words } from './words';

/** Milliseconds for which the dialog waits for the sizes: with those that come later the field
 *  comes, too. The kernel matters more. */
const SOON = 200;

/** The Select Kernel dialog with a size. */
export class SizedDialogs extends SessionContextDialogs {
  constructor(private readonly _own: SizedDialogs.IOptions) {
    super(_own.standard);
  }

  override async selectKernel(sessionContext: ISessionContext): Promise<void> {
    const gone = (): boolean => sessionContext.isDisposed;
    const key = choiceKey(sessionContext.path, sessionContext.name);
    const asked = this._known(key);
    const late = new Promise<undefined>(resolve => setTimeout(resolve, SOON, undefined));
    const known = await Promise.race([asked, late]);
    if (known === null || gone()) {
      return super.selectKernel(sessionContext);
    }
    const { shares, choices, actions, lab, trans } = this._own;
    const body = new Body(sessionContext, this._own);
    const show = (found: IKnown | null | undefined): void => {
      if (found && !body.isDisposed) {
        body.know(found);
      }
    };
    show(known);
    if (known === undefined) {
      void asked.then(show);
    }
    const always = sessionContext.kernelPreference.autoStartDefault;
    const cancel = sessionContext.hasNoKernel ? sessionContext.kernelDisplayName : lab.__('Cancel');
    /** Ask the server before anything happens to the kernel that runs. */
    const accepts = async (): Promise<boolean> => {
      const { kernel, size, row } = body.getValue();
      try {
        if (kernel?.id === undefined && kernel?.name !== undefined && size !== undefined) {
          await choices.set(key, size, kernel.name);
        } else if (row !== null && size != null && size !== row.size) {
          await shares.keptByResize(row.kernel_id, size);
        }
        return true;
      } catch (error) {
        body.refuse(line(error, trans));
        return false;
      }
    };
    const options = {
      title: lab.__('Select Kernel'),
      body,
      buttons: [
        Dialog.cancelButton({ label: cancel }),
        Dialog.okButton({ label: lab.__('Select'), ariaLabel: lab.__('Select Kernel') })
      ],
      checkbox:
        typeof always === 'boolean'
          ? {
              label: lab.__('Always start the preferred kernel'),
              caption: lab.__('Remember my choice and always start the preferred kernel'),
              checked: always
            }
          : null
    };
    const result = await new AskingDialog<IPicked>(options, accepts).launch();
    if (gone() || !result.button.accept || result.value === null) {
      return;
    }
    if (typeof always === 'boolean' && result.isChecked !== null) {
      const preference = sessionContext.kernelPreference;
      sessionContext.kernelPreference = { ...preference, autoStartDefault: result.isChecked };
    }
    const { kernel, size, row } = result.value;
    if (kernel === null) {
      return sessionContext.hasNoKernel ? undefined : sessionContext.shutdown();
    }
    if (row !== null && kernel.id === sessionContext.session?.kernel?.id) {
      return size != null && size !== row.size ? actions.changeSize(row, size) : undefined;
    }
    await sessionContext.changeKernel(kernel);
  }

  /** The offers and the choice; null where the server cannot tell, or no kernel has a share. */
  private async _known(key: string): Promise<IKnown | null> {
    const { shares, choices } = this._own;
    if (shares.health === 'missing') {
      return null;
    }
    const asked = Promise.all([shares.refreshSizes(), choices.get(key)]);
    const found = await asked.catch(() => null);
    return found && { sizes: found[0], choice: found[1] };
  }
}

export namespace SizedDialogs {
  export interface IOptions {
    shares: IShares;
    choices: ISizeChoices;
    actions: Actions;
    /** Our own texts, and JupyterLab's where the dialog says what its own says. */
    trans: TranslationBundle;
    lab: TranslationBundle;
    standard: ISessionContext.IDialogsOptions;
  }
}

interface IKnown {
  sizes: ISizes;
  choice: IChoice;
}

interface IPicked {
  kernel: Partial<Kernel.IModel> | null;
  /** Null for the default; undefined where no size can be picked. */
  size: string | null | undefined;
  /** The share of the kernel that is picked, where it runs already. */
  row: IAllocation | null;
}

/**
 * What the field offers for a kernel.
 *
 * @param kernel - What is picked: a kernelspec, a running kernel, or none.
 * @param own - The id of the session's kernel.
 * @param why - Why the size of a kernel that is used elsewhere stays, and that of a kernelspec.
 * @returns null where there is no size to pick.
 */
export function pickFor(
  kernel: Partial<Kernel.IModel> | null,
  own: string | undefined,
  { sizes, choice }: IKnown,
  allocations: ReadonlyMap<string, IAllocation>,
  why: { readonly elsewhere: string; readonly named: string }
): IPick | null {
  if (kernel?.id !== undefined) {
    const row = allocations.get(kernel.id);
    const locked = kernel.id === own ? null : why.elsewhere;
    return row === undefined ? null : { size: row.size, standard: null, locked };
  }
  if (kernel?.name === undefined || !sizes.kernelspecs.includes(kernel.name)) {
    return null;
  }
  const named = choice.fixed[kernel.name];
  if (named !== undefined) {
    return { size: named, standard: null, locked: why.named };
  }
  const standard = choice.defaults[kernel.name] ?? null;
  return { size: choice.size, standard, locked: null };
}

class Body extends Widget {
  constructor(
    private readonly _context: ISessionContext,
    private readonly _own: SizedDialogs.IOptions
  ) {
    super();
    const { trans, lab, standard } = _own;
    const context = _context;
    const label = document.createElement('label');
    label.textContent = `${lab.__('Select kernel for:')} "${context.name}"`;
    const { disabled, groups } = SessionContextDialogs.kernelOptions(context, standard.translator);
    this._select.disabled = disabled ?? false;
    for (const group of groups) {
      const element = document.createElement('optgroup');
      element.label = group.label;
      for (const { selected, text, title, value } of group.options) {
        const option = new Option(text, value, selected, selected);
        option.title = title ?? '';
        element.append(option);
      }
      this._select.append(element);
    }
    label.append(this._select);
    const kernel = new Widget({ node: document.createElement('div') });
    kernel.node.append(label);
    this._size = new SizeField(null, new Words(trans), trans);
    this._size.hide();
    const layout = (this.layout = new PanelLayout());
    layout.addWidget(kernel);
    layout.addWidget(this._size);
    this._why = {
      elsewhere: trans.__('This kernel is used elsewhere too; change its size there.'),
      named: trans.__(
        'This kernel starts with the size in its name; pick another for another size.'
      )
    };
    this._select.addEventListener('change', () => this._show());
  }

  /** Offer sizes, now that they are known. */
  know(known: IKnown): void {
    this._known = known;
    this._size.know(known.sizes);
    this._show();
  }

  private _show(): void {
    if (this._known === null) {
      return;
    }
    const own = this._context.session?.kernel?.id;
    const { allocations } = this._own.shares;
    const pick = pickFor(this._kernel, own, this._known, allocations, this._why);
    this._pickable = pick !== null && pick.locked === null;
    this._size.setHidden(pick === null);
    if (pick !== null) {
      this._size.offer(pick);
    }
  }

  /** Called by the dialog when it is accepted. */
  getValue(): IPicked {
    const kernel = this._kernel;
    const size = this._pickable ? this._size.size : undefined;
    const row = kernel?.id === undefined ? undefined : this._own.shares.allocations.get(kernel.id);
    return { kernel, size, row: row ?? null };
  }

  refuse(reason: string): void {
    this._size.refuse(reason);
  }

  private get _kernel(): Partial<Kernel.IModel> | null {
    return JSON.parse(this._select.value || 'null') as Partial<Kernel.IModel> | null;
  }

  private readonly _select = document.createElement('select');
  private readonly _size: SizeField;
  private readonly _why: { readonly elsewhere: string; readonly named: string };
  private _known: IKnown | null = null;
  private _pickable = false;
}
