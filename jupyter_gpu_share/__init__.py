"""Notebook kernels on a share of a GPU.

Importing this package is cheap: nothing that talks to a GPU, a cluster or a
database is imported before the first kernel starts.
"""

from __future__ import annotations

from ._version import __version__

__all__ = ["__version__"]


def _jupyter_server_extension_points() -> list[dict[str, object]]:
    """Say where the server extension is.

    Called by jupyter_server when it looks for extensions.
    """
    from .server import GpuShareApp

    return [{"module": "jupyter_gpu_share.server", "app": GpuShareApp}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Say where the built JupyterLab extension is.

    Called by ``jupyter labextension develop``.
    """
    return [{"src": "labextension", "dest": "jupyter-gpu-share"}]
