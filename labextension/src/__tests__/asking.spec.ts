import { Dialog } from '@jupyterlab/apputils';
import { AskingDialog } from '../asking';

function open(accepts: () => Promise<boolean>): {
  dialog: AskingDialog<unknown>;
  end: Promise<unknown>;
} {
  const buttons = [Dialog.cancelButton(), Dialog.okButton()];
  const dialog = new AskingDialog({ buttons }, accepts);
  const end = dialog.launch().then(result => result.button.accept);
  return { dialog, end };
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 10; turn += 1) {
    await Promise.resolve();
  }
}

describe('AskingDialog', () => {
  it('stays open while it is refused', async () => {
    const answers = [false, true];
    const { dialog, end } = open(() => Promise.resolve(answers.shift() ?? false));
    await settled();
    dialog.resolve();
    await settled();
    expect(dialog.isDisposed).toBe(false);
    dialog.resolve();
    expect(await end).toBe(true);
  });

  it('asks once however often the button is pressed', async () => {
    let asked = 0;
    let answer: (accepted: boolean) => void = () => undefined;
    const { dialog, end } = open(() => {
      asked += 1;
      return new Promise(resolve => (answer = resolve));
    });
    await settled();
    dialog.resolve();
    dialog.resolve(1);
    expect(asked).toBe(1);
    answer(true);
    expect(await end).toBe(true);
  });

  it('is cancelled without a question', async () => {
    const { dialog, end } = open(() => Promise.reject(new Error('asked')));
    await settled();
    dialog.resolve(0);
    expect(await end).toBe(false);
  });
});
