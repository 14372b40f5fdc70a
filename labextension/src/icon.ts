import { LabIcon } from '@jupyterlab/ui-components';

/** A chip of which a part is filled. */
export const gpuIcon = new LabIcon({
  name: 'jupyter-gpu-share:gpu',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="#616161">
    <path d="M6 4h12a2 2 0 0 1 2 2v12a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2V6c0-1.1.9-2 2-2zm0 2v12h12V6z"/>
    <path d="M8 12h4v4H8zM8 1h2v2H8zm6 0h2v2h-2zM8 21h2v2H8zm6 0h2v2h-2zM1 8h2v2H1zm0 6h2v2H1z"/>
    <path d="M21 8h2v2h-2zm0 6h2v2h-2z"/>
  </g>
</svg>`
});
