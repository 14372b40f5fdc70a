"""Which sharing backends there are, and which of them a cluster offers."""

from __future__ import annotations

from ._base import Backend, Facts
from ._dra import DraBackend

__all__ = ["BACKENDS", "detect"]

BACKENDS: dict[str, type[Backend]] = {DraBackend.name: DraBackend}


def detect(facts: Facts) -> tuple[str, ...]:
    """Names of the backends that the cluster offers, the best first."""
    return tuple(name for name, backend in BACKENDS.items() if backend.offered(facts))
