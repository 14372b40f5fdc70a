import type { TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';
import { docs } from './links';
import type { ILoss, IReport } from './tokens';
import { clock, gibibytes } from './words';

/** All that was lost, in lists: every name, what it is, and why. */
export function lostBody({ lost, aside }: IReport, trans: TranslationBundle): Widget {
  const body = new Widget();
  body.addClass('jp-GpuShare-lost');
  if (lost.length === 0 && aside.length === 0) {
    body.node.append(paragraph(trans.__('No variable of this kernel is lost.')));
  }
  if (lost.length > 0) {
    body.node.append(
      paragraph(trans.__('These are not kept when the share is given back:')),
      list(lost)
    );
  }
  for (const { file, bytes, saved, missing } of aside) {
    const told = trans.__('Saved at %1, and not brought back:', clock(saved));
    const where = trans.__(
      'The file %1 (%2) on the server still has them.',
      file,
      gibibytes(bytes)
    );
    body.node.append(paragraph(told), list(missing), paragraph(where));
  }
  const more = document.createElement('a');
  more.href = docs('keeping');
  more.target = '_blank';
  more.rel = 'noopener noreferrer';
  more.textContent = trans.__('What is kept, and how');
  body.node.append(more);
  return body;
}

function paragraph(text: string): HTMLElement {
  const made = document.createElement('p');
  made.textContent = text;
  return made;
}

function list(losses: readonly ILoss[]): HTMLElement {
  const made = document.createElement('ul');
  for (const { name, what, why } of losses) {
    const item = document.createElement('li');
    if (name) {
      const code = document.createElement('code');
      code.textContent = name;
      item.append(code, ' ');
    }
    item.append([what, why].filter(Boolean).join(': '));
    made.append(item);
  }
  return made;
}
