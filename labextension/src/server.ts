import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { noteServerTime } from './clock';
import type { Sentences } from './sentences';

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

/** A request's method, JSON body and query. */
export interface IRequest {
  query?: Readonly<Record<string, string>>;
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  body?: unknown;
  /** Says what the server says in the reader's language. */
  sentences?: Sentences | undefined;
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
  { method = 'GET', body, query = {}, sentences }: IRequest = {}
): Promise<T> {
  const place = URLExt.join(settings.baseUrl, ...path.map(encodeURIComponent));
  const url = place + URLExt.objectToQueryString(query);
  const init: RequestInit = { method };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
  }
  const response = await ServerConnection.makeRequest(url, init, settings);
  noteServerTime(response.headers.get('Date'));
  if (!response.ok) {
    const found: unknown = await response.json().catch(() => null);
    const told = (sentences?.into(found) ?? found) as { message?: unknown } | null;
    const message = typeof told?.message === 'string' ? told.message : '';
    throw new Refusal(response.status, message || response.statusText);
  }
  const found: unknown = response.status === 204 ? null : await response.json();
  return (sentences?.into(found) ?? found) as T;
}
