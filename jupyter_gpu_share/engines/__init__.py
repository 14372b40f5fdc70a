"""Engines: where kernels run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import EngineError

if TYPE_CHECKING:
    from traitlets.config import Configurable

    from .base import Engine

__all__ = ["make_engine"]


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
            from .kubernetes import KubernetesEngine
        except ImportError as error:
            raise EngineError(
                "The engine 'kubernetes' needs more packages: pip install "
                "'jupyter-gpu-share[kubernetes]'."
            ) from error

        return KubernetesEngine(parent=parent)
    raise EngineError(f"There is no engine called {name!r}; there are 'local' and 'kubernetes'.")
