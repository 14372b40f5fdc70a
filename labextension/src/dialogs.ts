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

/** Milliseconds for which the dialog waits for the sizes: the kernel matters more. */
const PATIENCE = 2000;

/** The Select Kernel dialog with a size. */
export class SizedDialogs extends SessionContextDialogs {
  constructor(private readonly _own: SizedDialogs.IOptions) {
    super(_own.standard);
  }

  override async selectKernel(sessionContext: ISessionContext): Promise<void> {
    const gone = (): boolean => sessionContext.isDisposed;
    const key = choiceKey(sessionContext.path, sessionContext.name);
    const known = await this._known(key);
    if (known === null || gone()) {
      return super.selectKernel(sessionContext);
    }
    const { shares, choices, actions, lab } = this._own;
    const body = new Body(sessionContext, known, this._own);
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
        body.refuse(line(error));
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
    const late = new Promise<null>(resolve => setTimeout(() => resolve(null), PATIENCE));
    const asked = Promise.all([shares.refreshSizes(), choices.get(key)]);
    const found = await Promise.race([asked, late]).catch(() => null);
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
  /** Null for the default; undefined where no size is offered. */
  size: string | null | undefined;
  /** The share of the kernel that is picked, where it runs already. */
  row: IAllocation | null;
}

/**
 * What the field offers for a kernel.
 *
 * @param kernel - What is picked: a kernelspec, a running kernel, or none.
 * @param own - The id of the session's kernel.
 * @returns null where there is no size to pick.
 */
export function pickFor(
  kernel: Partial<Kernel.IModel> | null,
  own: string | undefined,
  { sizes, choice }: IKnown,
  allocations: ReadonlyMap<string, IAllocation>,
  keeps: string
): IPick | null {
  if (kernel?.id !== undefined) {
    const row = allocations.get(kernel.id);
    const locked = kernel.id === own ? null : keeps;
    return row === undefined ? null : { size: row.size, standard: null, locked };
  }
  if (kernel?.name === undefined || !sizes.kernelspecs.includes(kernel.name)) {
    return null;
  }
  const standard = choice.defaults[kernel.name] ?? null;
  return { size: choice.size, standard, locked: null };
}

class Body extends Widget {
  constructor(
    context: ISessionContext,
    known: IKnown,
    private readonly _own: SizedDialogs.IOptions
  ) {
    super();
    const { trans, lab, standard, shares } = _own;
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
    this._size = new SizeField(known.sizes, new Words(trans), trans);
    const layout = (this.layout = new PanelLayout());
    layout.addWidget(kernel);
    layout.addWidget(this._size);
    const keeps = trans.__('This kernel is used elsewhere too; change its size there.');
    const show = (): void => {
      const own = context.session?.kernel?.id;
      const pick = pickFor(this._kernel, own, known, shares.allocations, keeps);
      this._size.setHidden(pick === null);
      if (pick !== null) {
        this._size.offer(pick);
      }
    };
    this._select.addEventListener('change', show);
    show();
  }

  /** Called by the dialog when it is accepted. */
  getValue(): IPicked {
    const kernel = this._kernel;
    const size = this._size.isHidden ? undefined : this._size.size;
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
}
