import type { IAllocation, IChange } from '../tokens';

/**
 * Kernels that failed and are gone: a person who was not there is told why.
 *
 * One is forgotten when its notebook has another kernel, or when it was read.
 */
export class Failures {
  /** @returns Whether something changed. */
  take({ before, now }: IChange): boolean {
    if (now.state === 'ended') {
      if (before?.state !== 'failed' || !before.reason) {
        return false;
      }
      this._rows.set(now.kernel_id, before);
      return true;
    }
    return this._forget(
      row => row.kernel_id === now.kernel_id || (row.path !== null && row.path === now.path)
    );
  }

  /** @returns Whether it was there. */
  dismiss(kernelId: string): boolean {
    return this._rows.delete(kernelId);
  }

  get rows(): IAllocation[] {
    return [...this._rows.values()];
  }

  private _forget(which: (row: IAllocation) => boolean): boolean {
    const found = this.rows.filter(which);
    found.forEach(row => this._rows.delete(row.kernel_id));
    return found.length > 0;
  }

  private readonly _rows = new Map<string, IAllocation>();
}
