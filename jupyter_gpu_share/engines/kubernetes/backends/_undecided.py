"""No backend yet: nothing in the cluster has shown how it splits GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NoReturn

from ....allocations import Share
from ....errors import NoGpuError
from ....size import Size
from ...base import Capacity, Finding
from ._base import Backend, Facts, Object

__all__ = ["UndecidedBackend"]

_NOT_SEEN = (
    "No way to share GPUs was found in the cluster. `jupyter gpu-share doctor` says what was "
    "looked for; c.KubernetesEngine.backend names one anyway."
)
_NOT_READ = (
    "How GPUs are shared in the cluster cannot be seen: this server may not read nodes. Set "
    "c.KubernetesEngine.backend, or have the administrator apply "
    "etc/kubernetes/overlays/cluster-read-pods."
)


class UndecidedBackend(Backend):
    """Stands for the backend until there is something to find one by. Size 0 needs none."""

    name: ClassVar[str] = "auto"
    styles: ClassVar[tuple[str, ...]] = ("pod", "lease", "annotation")
    reads: ClassVar[frozenset[str]] = frozenset({"nodes", "resourceslices", "deviceclasses"})

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        """Any options: those of the backend that is found are looked at then."""

    @classmethod
    def offered(cls, facts: Facts) -> bool:
        """See :meth:`Backend.offered`."""
        return False

    def render(self, size: Size, facts: Facts) -> NoReturn:
        """See :meth:`Backend.render`."""
        raise NoGpuError(_NOT_READ if "nodes" in facts.missing else _NOT_SEEN)

    def granted(self, pod: Object, claims: Sequence[Object], facts: Facts) -> Share | None:
        """See :meth:`Backend.granted`."""
        return None

    def capacity(self, facts: Facts) -> list[Capacity]:
        """See :meth:`Backend.capacity`."""
        return []

    def room(self, size: Size, facts: Facts) -> NoReturn:
        """See :meth:`Backend.room`."""
        self.render(size, facts)

    def examine(self, facts: Facts) -> list[Finding]:
        """See :meth:`Backend.examine`."""
        why = _NOT_READ if "nodes" in facts.missing else _NOT_SEEN
        return [Finding("error", why, "docs/backends.md#which-one-is-taken")]
