import { caretDownIcon, caretRightIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

interface ISectionProps {
  title: string;
  /** At the right of the title, and seen when the section is closed too. */
  summary?: string | undefined;
  summaryTitle?: string | undefined;
}

/** A part of the panel with a title that opens and closes it. */
export function Section(props: React.PropsWithChildren<ISectionProps>): React.JSX.Element {
  const { title, summary, summaryTitle, children } = props;
  const [open, setOpen] = React.useState(true);
  const id = React.useId();
  const Caret = open ? caretDownIcon.react : caretRightIcon.react;
  return (
    <section className="jp-GpuShare-section" aria-labelledby={id}>
      <div className="jp-GpuShare-title">
        <h2>
          <button
            aria-expanded={open}
            onClick={() => {
              setOpen(!open);
            }}
          >
            <Caret tag="span" elementSize="normal" />
            <span id={id}>{title}</span>
          </button>
        </h2>
        {summary !== undefined && (
          <bdi className="jp-GpuShare-summary" title={summaryTitle ?? summary}>
            {summary}
          </bdi>
        )}
      </div>
      {open && <div className="jp-GpuShare-body">{children}</div>}
    </section>
  );
}
