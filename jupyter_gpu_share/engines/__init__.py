"""Engines: where kernels run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import EngineError

if TYPE_CHECKING:
    from traitlets.config import Configurable

    from .base import Engine

__all__ = ["make_engine", "usual_engine"]


def usual_engine() -> str:
    """The engine where nothing is configured: that of the cluster whose broker is named."""
    named = os.environ.get("JUPYTER_GPU_SHARE_BROKER", "").strip().lower()
    return "kubernetes" if named.startswith(("http:", "https:")) else "local"


def make_engine(name: str, *, parent: Configurable) -> Engine:
    """Make the engine of that name, importing only what it needs.

    Raises
    ------
    EngineError: there is no such engine.
    """
    if name == "local":
        from .local import LocalEngine

        return LocalEngine(parent=parent)
    if name == "kubernetes":
        try:
            from ..broker.http_client import broker_url
            from .kubernetes import BrokeredEngine, KubernetesEngine
        except ImportError as error:
            raise EngineError(
                "The engine 'kubernetes' needs more packages: pip install "
                "'jupyter-gpu-share[kubernetes]'."
            ) from error

        # Who names a broker has no rights on the cluster, or is not to use them.
        return (BrokeredEngine if broker_url() else KubernetesEngine)(parent=parent)
    raise EngineError(f"There is no engine called {name!r}; there are 'local' and 'kubernetes'.")
