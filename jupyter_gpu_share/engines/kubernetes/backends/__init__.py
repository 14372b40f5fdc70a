"""Sharing backends: how a cluster splits its GPUs."""

from __future__ import annotations

from collections.abc import Mapping

from ....errors import EngineError
from ._base import CONTAINER, Backend, Claim, Facts, Object, Rendered, dig, named
from ._detect import BACKENDS, detect
from ._device_plugin import DevicePluginBackend
from ._dra import DraBackend
from ._hami import HamiBackend
from ._kai import KaiBackend
from ._kinds import Kind
from ._mig import MigBackend
from ._nodes import LET_READ, asks_for_gpus, nodes_apart, trimmed
from ._undecided import UndecidedBackend
from ._usable import GPU_TOLERATION, Placement

__all__ = [
    "BACKENDS",
    "CONTAINER",
    "GPU_TOLERATION",
    "LET_READ",
    "Backend",
    "Claim",
    "DevicePluginBackend",
    "DraBackend",
    "Facts",
    "HamiBackend",
    "KaiBackend",
    "Kind",
    "MigBackend",
    "Object",
    "Placement",
    "Rendered",
    "UndecidedBackend",
    "asks_for_gpus",
    "detect",
    "dig",
    "make_backend",
    "named",
    "nodes_apart",
    "trimmed",
]


def make_backend(name: str, options: Mapping[str, str], style: str = "pod") -> Backend:
    """The backend of that name, holding shares in that style.

    Raises
    ------
    EngineError: there is no such backend, it has no such style, or not such an option.
    """
    if name not in BACKENDS:
        raise EngineError(f"There is no sharing backend {name!r}; there is {', '.join(BACKENDS)}.")
    backend = BACKENDS[name](options)
    if why := backend.why_not(style):
        raise EngineError(why)
    backend.style = style
    return backend
