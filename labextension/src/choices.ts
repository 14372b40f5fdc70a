import type { ISizeChoices } from './tokens';

const KEY = 'jupyter-gpu-share:sizes';
/** Paths that are remembered; the oldest is forgotten first. */
const MOST = 200;

/** Choices that outlive the page, in the browser's storage. */
export class SizeChoices implements ISizeChoices {
  /**
   * @param storage - Where they lie.
   * @param server - Whose paths these are: one browser may know several servers.
   */
  constructor(
    private readonly _storage: Storage,
    private readonly _server: string
  ) {}

  get(path: string): string | null {
    return this._all().find(([known]) => known === path)?.[1] ?? null;
  }

  set(path: string, size: string | null): void {
    const others = this._all().filter(([known]) => known !== path);
    const all = size === null ? others : [[path, size], ...others].slice(0, MOST);
    try {
      this._storage.setItem(this._key, JSON.stringify(all));
    } catch {
      // A full or forbidden storage remembers nothing, and the start goes on.
    }
  }

  private get _key(): string {
    return `${KEY}:${this._server}`;
  }

  private _all(): [string, string][] {
    try {
      const all: unknown = JSON.parse(this._storage.getItem(this._key) ?? '[]');
      return Array.isArray(all) ? all.filter(isChoice) : [];
    } catch {
      return [];
    }
  }
}

function isChoice(value: unknown): value is [string, string] {
  return (
    Array.isArray(value) && value.length === 2 && value.every(each => typeof each === 'string')
  );
}
