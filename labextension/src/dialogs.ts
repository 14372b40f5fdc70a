import { Dialog, SessionContextDialogs, type ISessionContext } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import { PanelLayout, Widget } from '@lumino/widgets';
import { choiceKey } from './sessions';
import { SizeField } from './sizefield';
import type { IShares, ISizeChoices, ISizes } from './tokens';
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
    const sizes = await this._sizes();
    if (sizes === null || gone()) {
      return super.selectKernel(sessionContext);
    }
    const { choices, lab } = this._own;
    const key = choiceKey(sessionContext.path, sessionContext.name);
    const body = new Body(sessionContext, sizes, choices.get(key), this._own);
    const always = sessionContext.kernelPreference.autoStartDefault;
    const cancel = sessionContext.hasNoKernel ? sessionContext.kernelDisplayName : lab.__('Cancel');
    const result = await new Dialog<IChoice>({
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
    }).launch();
    if (gone() || !result.button.accept || result.value === null) {
      return;
    }
    if (typeof always === 'boolean' && result.isChecked !== null) {
      const preference = sessionContext.kernelPreference;
      sessionContext.kernelPreference = { ...preference, autoStartDefault: result.isChecked };
    }
    const { kernel, size } = result.value;
    if (kernel === null) {
      return sessionContext.hasNoKernel ? undefined : sessionContext.shutdown();
    }
    if (kernel.id === undefined) {
      choices.set(key, size);
    }
    await sessionContext.changeKernel(kernel);
  }

  private async _sizes(): Promise<ISizes | null> {
    const { shares } = this._own;
    if (shares.health === 'missing') {
      return null;
    }
    const late = new Promise<null>(resolve => setTimeout(() => resolve(null), PATIENCE));
    return Promise.race([shares.refreshSizes(), late]).catch(() => null);
  }
}

export namespace SizedDialogs {
  export interface IOptions {
    shares: IShares;
    choices: ISizeChoices;
    /** Our own texts, and JupyterLab's where the dialog says what its own says. */
    trans: TranslationBundle;
    lab: TranslationBundle;
    standard: ISessionContext.IDialogsOptions;
  }
}

interface IChoice {
  kernel: Partial<Kernel.IModel> | null;
  size: string | null;
}

class Body extends Widget {
  constructor(
    context: ISessionContext,
    sizes: ISizes,
    chosen: string | null,
    { trans, lab, standard }: SizedDialogs.IOptions
  ) {
    super();
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
    this._size = new SizeField(sizes, chosen, new Words(trans), trans);
    const layout = (this.layout = new PanelLayout());
    layout.addWidget(kernel);
    layout.addWidget(this._size);
    const runs = trans.__('A kernel that runs keeps its size; the toolbar changes it.');
    const show = (): void => {
      const choice = this._kernel;
      const shared = choice?.name === undefined || sizes.kernelspecs.includes(choice.name);
      this._size.setHidden(choice === null || !shared);
      this._size.allow(choice?.id === undefined ? null : runs);
    };
    this._select.addEventListener('change', show);
    show();
  }

  /** Called by the dialog when it is accepted. */
  getValue(): IChoice {
    return { kernel: this._kernel, size: this._size.isHidden ? null : this._size.size };
  }

  private get _kernel(): Partial<Kernel.IModel> | null {
    return JSON.parse(this._select.value || 'null') as Partial<Kernel.IModel> | null;
  }

  private readonly _select = document.createElement('select');
  private readonly _size: SizeField;
}
