"""What the administrator's rules have to see of the cluster, and ask of the kernels' registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ...engines.base import Capacity, Snapshot
from ..claim import Claim
from ..demand import Device
from ..idle import Promise
from ..order import Room
from .ruling import Key

__all__ = ["Kernels", "Sight"]


class Sight(Protocol):
    """The cluster at this moment. Kernels are named by :attr:`Key.text`.

    Every coroutine may raise GpuShareError where the cluster cannot be read.
    """

    def to_come(self) -> Sequence[Device]:
        """GPUs of nodes that the cluster can have, whether or not one is there."""

    async def gpus(self) -> Sequence[Capacity]:
        """All GPUs, with what is free of each."""

    async def room(self, waiting: Sequence[Claim]) -> Room:
        """What is free, to be shared out to these."""

    async def snapshot(self, waiting: Sequence[Claim]) -> Snapshot:
        """Who of these would get a share if some of the idle kernels gave theirs back."""


class Kernels(Protocol):
    """The kernels of all users, as their registry has them."""

    def rows(self) -> Iterable[tuple[Key, Mapping[str, Any]]]:
        """Every kernel with its row, which has ``size``, ``path``, ``kernel_name``, ``share``,
        ``queue`` and ``reason`` at least."""

    async def give_back(self, key: Key) -> None:
        """Take the share of an idle kernel whose server does not give it back.

        Raises
        ------
        GpuShareError: it cannot be taken while the kernel lives.
        """

    async def remember(self, key: Key, promise: Promise | None) -> None:
        """Have the next broker know what is promised of an idle share, or that nothing is.

        A kernel that is not there needs nothing.

        Raises
        ------
        GpuShareError: it is not written.
        """

    def end(self, key: Key, words: str) -> bool:
        """End a kernel; ``words`` tell its user why. False: there is none."""
