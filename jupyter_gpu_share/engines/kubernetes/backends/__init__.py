"""Sharing backends: how a cluster splits its GPUs."""

from __future__ import annotations

from collections.abc import Mapping

from ....errors import EngineError
from ._base import Backend, Claim, Facts, Object, Rendered, dig
from ._detect import BACKENDS, detect
from ._dra import DraBackend

__all__ = [
    "BACKENDS",
    "Backend",
    "Claim",
    "DraBackend",
    "Facts",
    "Object",
    "Rendered",
    "detect",
    "dig",
    "make_backend",
]


def make_backend(name: str, options: Mapping[str, str]) -> Backend:
    """The backend of that name.

    Raises
    ------
    EngineError: there is no such backend, or an option that it does not have.
    """
    if name not in BACKENDS:
        raise EngineError(f"There is no sharing backend {name!r}; there is {', '.join(BACKENDS)}.")
    return BACKENDS[name](options)
