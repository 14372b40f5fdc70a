import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { noteServerTime } from './clock';

/** The server answered, and refused. */
export class Refusal extends Error {
  /**
   * @param status - The HTTP status.
   * @param message - One line for the user.
   */
  constructor(
    readonly status: number,
    message: string
  ) {
    super(message);
    this.name = 'Refusal';
  }
}

/** A request's method and JSON body. */
export interface IRequest {
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  body?: unknown;
}

/**
 * Ask the server.
 *
 * @param path - Parts of the path below the base URL; each is escaped.
 * @throws Refusal where it refuses, ServerConnection.NetworkError where it does not answer.
 */
export async function ask<T>(
  settings: ServerConnection.ISettings,
  path: readonly string[],
  { method = 'GET', body }: IRequest = {}
): Promise<T> {
  const url = URLExt.join(settings.baseUrl, ...path.map(encodeURIComponent));
  const init: RequestInit = { method };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
  }
  const response = await ServerConnection.makeRequest(url, init, settings);
  noteServerTime(response.headers.get('Date'));
  if (!response.ok) {
    const told = (await response.json().catch(() => null)) as { message?: unknown } | null;
    const message = typeof told?.message === 'string' ? told.message : '';
    throw new Refusal(response.status, message || response.statusText);
  }
  return (response.status === 204 ? null : await response.json()) as T;
}
