"""The shape of an allocation, as REST, events and ``--json`` carry it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from fractions import Fraction
from typing import Any

from .._text import written
from ..sentences import say, sentences_of


class State(str, Enum):
    """Where a kernel stands with its share."""

    QUEUED = "queued"  #: waits for a share; no process yet
    STARTING = "starting"  #: holds a share; the kernel has not answered yet
    ACTIVE = "active"  #: holds a share and works, or did a moment ago
    IDLE = "idle"  #: holds a share that nothing uses
    RELEASING = "releasing"  #: the share is on its way back
    RELEASED = "released"  #: holds no share; running a cell asks for one
    WAKING = "waking"  #: asks for a share again because a cell was run
    FAILED = "failed"  #: could not start; the reason says why
    ENDED = "ended"  #: the kernel is gone

    @property
    def holds_share(self) -> bool:
        """True where the share counts against the GPU."""
        return self in (State.STARTING, State.ACTIVE, State.IDLE, State.RELEASING)


class Isolation(str, Enum):
    """How a share is held apart from its neighbours on the same GPU."""

    HARDWARE = "hardware"  #: a MIG instance
    DRIVER = "driver"  #: a memory limit kept by the driver
    MPS = "mps"  #: a memory limit kept by NVIDIA's MPS server
    PRELOAD = "preload"  #: a library in user space
    FRAMEWORK = "framework"  #: soft caps in the frameworks, watched from outside
    NONE = "none"  #: accounting only


@dataclass(frozen=True)
class Device:
    """A GPU or MIG instance that a share lies on."""

    uuid: str
    model: str
    node: str


@dataclass(frozen=True)
class Share:
    """What was granted.

    Attributes
    ----------
    devices: the GPUs, each with ``memory_bytes`` for this kernel; empty for size ``0``.
    memory_bytes: bytes of memory on each device.
    fraction: of the memory of each device.
    isolation: how the share is held apart.
    simulated: True where no real GPU is behind it.
    """

    devices: tuple[Device, ...]
    memory_bytes: int
    fraction: Fraction
    isolation: Isolation
    simulated: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the contract has it; the fraction as text."""
        return {
            "devices": [{"uuid": d.uuid, "model": d.model, "node": d.node} for d in self.devices],
            "memory_bytes": self.memory_bytes,
            "fraction": str(self.fraction),
            "isolation": self.isolation.value,
            "simulated": self.simulated,
        }


@dataclass(frozen=True)
class QueuePosition:
    """Place in the queue, counted from 1."""

    position: int
    of: int


@dataclass(frozen=True)
class NextAction:
    """What happens to the share by itself, and when."""

    action: str
    at: datetime


@dataclass(frozen=True)
class Kept:
    """How a release would keep the variables, and what it could not keep.

    Attributes
    ----------
    how: ``none`` where a release would lose every variable.
    lost: what would be lost, in the user's words.
    """

    how: str = "none"
    lost: tuple[str, ...] = (say("all-variables"),)


@dataclass(frozen=True)
class Allocation:
    """One kernel with its size, share and state. Times are aware and in UTC, amounts in bytes."""

    kernel_id: str
    kernel_name: str
    size: str
    state: State
    path: str | None = None
    user: str | None = None
    reason: str = ""
    share: Share | None = None
    used_bytes: int | None = None
    utilization: float | None = None
    idle_since: datetime | None = None
    keep_until: datetime | None = None
    next: NextAction | None = None
    queue: QueuePosition | None = None
    engine: str = ""
    backend: str | None = None
    style: str | None = None
    kept: Kept = field(default_factory=Kept)

    def to_json(self) -> dict[str, Any]:
        """The contract's object, the same in REST, events and ``--json``."""
        return {
            "kernel_id": self.kernel_id,
            "kernel_name": self.kernel_name,
            "path": self.path,
            "user": self.user,
            "size": self.size,
            "state": self.state.value,
            "reason": self.reason,
            "reason_sentences": sentences_of(self.reason),
            "share": self.share.to_json() if self.share else None,
            "used_bytes": self.used_bytes,
            "utilization": self.utilization,
            "idle_since": timestamp(self.idle_since),
            "keep_until": timestamp(self.keep_until),
            "next": (
                {"action": self.next.action, "at": timestamp(self.next.at)} if self.next else None
            ),
            "queue": (
                {"position": self.queue.position, "of": self.queue.of} if self.queue else None
            ),
            "engine": self.engine,
            "backend": self.backend,
            "style": self.style,
            "kept": {"how": self.kept.how, "lost": list(self.kept.lost)},
        }


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, to the millisecond, such as ``2026-03-01T12:00:00.000Z``."""
    return None if moment is None else written(moment)
