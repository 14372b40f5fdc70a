"""The messages that wait for a kernel: in order, and bounded by kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..size import format_bytes
from ._rules import WANTING, Kind, kind_of

__all__ = ["Bound", "Held", "HeldLimits", "HeldMessages"]


@dataclass(frozen=True)
class Bound:
    """At most so many messages and bytes. One message may be as large as all of them."""

    messages: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.messages} messages or {format_bytes(self.bytes)}"


@dataclass(frozen=True)
class HeldLimits:
    """How much is held for a kernel at most, by kind: one kind cannot take another's room.

    Attributes
    ----------
    cells: what users run.
    comms: what they do with widgets.
    others: requests about the kernel, and what pages send by themselves.
    """

    cells: Bound = Bound(1000, 64 * 2**20)
    comms: Bound = Bound(1000, 256 * 2**20)
    others: Bound = Bound(1000, 16 * 2**20)

    def of(self, kind: Kind) -> Bound:
        """The bound of a kind."""
        bounds = {"cells": self.cells, "comms": self.comms, "others": self.others}
        return bounds[_group(kind)]


def _group(kind: Kind) -> str:
    """The kinds that share a bound."""
    return {Kind.CELL: "cells", Kind.COMM: "comms"}.get(kind, "others")


@dataclass(eq=False)
class Held:
    """A client's message, which may wait for the kernel.

    Attributes
    ----------
    frames: what the kernel will get.
    quiet: of a comm that a page opens by itself.
    size: bytes of all frames.
    """

    channel: str
    frames: list[bytes]
    idents: list[bytes]
    header: dict[str, Any]
    silent: bool = False
    restart: bool = False
    quiet: bool = False
    display_id: str | None = None
    size: int = field(init=False)
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.frames))
        self.kind = kind_of(self.msg_type, self.channel, quiet=self.quiet)

    @property
    def msg_type(self) -> str:
        return str(self.header.get("msg_type", ""))

    @property
    def wants(self) -> bool:
        """True where somebody asks for the kernel itself."""
        return self.kind in WANTING


class HeldMessages:
    """What is held, oldest first. Belongs to one thread; :attr:`wanting` may be read by any."""

    def __init__(self, limits: HeldLimits) -> None:
        self._limits = limits
        self._messages: list[Held] = []
        self._filled: dict[str, list[int]] = {}
        #: Number of messages that ask for the kernel itself.
        self.wanting = 0
        self.put([])

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._messages))

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: Held) -> list[Held]:
        """Hold one more. Returns those that are not held because of it.

        Above the bound of cells or comms that is the message itself; of others the oldest go.
        """
        if message.wants:
            if not self._fits(message):
                return [message]
            self._append(message)
            return []
        gone: list[Held] = []
        while not self._fits(message):
            oldest = next((m for m in self._messages if not m.wants), None)
            if oldest is None:
                return [*gone, message]
            self._messages.remove(oldest)
            self._note(oldest, -1)
            gone.append(oldest)
        self._append(message)
        return gone

    def take(self) -> list[Held]:
        """All that is held; nothing is, then."""
        taken = self._messages
        self.put([])
        return taken

    def put(self, messages: Iterable[Held]) -> None:
        """Hold these, which were held before, and nothing else."""
        self._messages = []
        self._filled = {_group(kind): [0, 0] for kind in Kind}
        self.wanting = 0
        for message in messages:
            self._append(message)

    def _append(self, message: Held) -> None:
        self._messages.append(message)
        self._note(message, 1)

    def _fits(self, message: Held) -> bool:
        bound = self._limits.of(message.kind)
        messages, size = self._filled[_group(message.kind)]
        return messages < bound.messages and size + message.size <= bound.bytes

    def _note(self, message: Held, sign: int) -> None:
        filled = self._filled[_group(message.kind)]
        filled[0] += sign
        filled[1] += sign * message.size
        self.wanting += sign * message.wants
