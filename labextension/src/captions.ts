import { h, type VirtualElement } from '@lumino/virtualdom';
import { Menu } from '@lumino/widgets';

/** Writes below each size of a menu what it is for, or why it cannot be had now. */
export class SizeRenderer extends Menu.Renderer {
  override renderLabel(data: Menu.IRenderData): VirtualElement {
    const { args, caption } = data.item;
    const label = this.formatLabel(data);
    const explained = typeof args['size'] === 'string' && caption !== '';
    return explained
      ? h.div({ className: 'lm-Menu-itemLabel' }, label, h.div({ className: CAPTION }, caption))
      : h.div({ className: 'lm-Menu-itemLabel' }, label);
  }
}

const CAPTION = 'jp-GpuShare-caption';
