/** Where the documentation is. */
const DOCS = 'https://github.com/jupyter-gpu-share/jupyter-gpu-share/blob/main/docs/';

/** A page of it, by its name. */
export type DocsPage = 'idle' | 'isolation' | 'keeping' | 'troubleshooting';

/** Address of a page of the documentation. */
export function docs(page: DocsPage): string {
  return `${DOCS}${page}.md`;
}
