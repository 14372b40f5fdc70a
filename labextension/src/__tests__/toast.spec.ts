import { Notification } from '@jupyterlab/apputils';
import type { IMessage } from '../messages';
import { Toast } from '../toast';

function message(text: string, ...kernels: string[]): IMessage {
  return { kind: 'waiting', type: 'info', text, kernels, buttons: [] };
}

function texts(): string[] {
  return Notification.manager.notifications.map(each => each.message);
}

/** Put up what the manager has, as Lab's page does. */
function show(): void {
  document.body.replaceChildren(
    ...Notification.manager.notifications.map(each => {
      const node = document.createElement('div');
      node.id = each.id;
      return node;
    })
  );
}

describe('Toast', () => {
  let toast: Toast;
  beforeEach(() => {
    jest.useFakeTimers();
    Notification.dismiss();
    document.body.replaceChildren();
    toast = new Toast(() => []);
  });
  afterEach(() => {
    jest.useRealTimers();
  });

  it('waits with a change until the message before is seen', () => {
    toast.show(message('one waits', 'one'));
    toast.show(null);
    jest.advanceTimersByTime(1000);
    expect(texts()).toEqual(['one waits']);
    show();
    jest.advanceTimersByTime(1000);
    expect(texts()).toEqual([]);
  });

  it('does not wait for ever', () => {
    toast.show(message('one waits', 'one'));
    toast.show(null);
    jest.advanceTimersByTime(6000);
    expect(texts()).toEqual([]);
  });

  it('changes in its place', () => {
    toast.show(message('one waits', 'one'));
    show();
    jest.advanceTimersByTime(200);
    toast.show(message('two wait', 'one', 'two'));
    expect(texts()).toEqual(['two wait']);
  });

  it('stays closed where somebody has closed it, but for another kernel', () => {
    toast.show(message('one waits, 2 of 2', 'one'));
    show();
    jest.advanceTimersByTime(200);
    Notification.dismiss();
    toast.show(message('one waits, 1 of 1', 'one'));
    expect(texts()).toEqual([]);
    toast.show(message('two wait', 'one', 'two'));
    expect(texts()).toEqual(['two wait']);
  });

  it('comes again after it was not true for a while', () => {
    toast.show(message('one waits', 'one'));
    show();
    jest.advanceTimersByTime(200);
    Notification.dismiss();
    toast.show(null);
    toast.show(message('one waits', 'one'));
    expect(texts()).toEqual(['one waits']);
  });
});
