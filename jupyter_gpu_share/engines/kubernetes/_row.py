"""What the broker of a cluster tells of kernels and GPUs, read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from math import isfinite
from typing import Any

from ..._text import moment_in
from ...allocations import (
    Allocation,
    Device,
    Isolation,
    Kept,
    NextAction,
    QueuePosition,
    Share,
    State,
)
from ...errors import EngineError
from ...sentences import heard, told
from ..base import Capacity, Exit, Removal

__all__ = ["Failed", "Row", "allocation_of", "capacity_of", "share_of"]

#: What ends a kernel whose end has no code of its own, as after SIGKILL.
_KILLED = -9


_FIRST = QueuePosition(1, 1)


@dataclass(frozen=True)
class Failed:
    """Why a start, or taking the share again, came to nothing.

    Attributes
    ----------
    kind: ``no-gpu``, ``start``, ``engine`` or ``size``; ``keys`` where the broker was restarted in
        between, and the start has to be asked for anew.
    """

    kind: str
    detail: str


@dataclass(frozen=True)
class Row:
    """All that the broker tells of one kernel, as of one moment.

    Attributes
    ----------
    attempt: the start, or the taking over, that it is about.
    name: of its pod.
    state: ``waiting``, ``starting``, ``ready``, ``released``, ``taking``, ``ended``, ``failed``.
    note: what the size was rounded to.
    address: of the pod, once its container runs.
    unanswered: whether the outcome of a write to the cluster is not known.
    lost: another process of the server has the kernel.
    instance: of the process that has it; ``held_by_other``: that one lives, and is not the caller.
    lost_work: what ended with it, a sentence for its notebook.
    """

    kernel_id: str
    attempt: str
    state: str
    name: str = ""
    size: str = ""
    kernel_name: str = ""
    path: str | None = None
    reason: str = ""
    queue: QueuePosition = _FIRST
    share: Share | None = None
    note: str = ""
    address: str = ""
    detachable: bool = False
    unanswered: bool = False
    lost: bool = False
    removal: Removal | None = None
    ended: Exit | None = None
    failed: Failed | None = None
    instance: str = ""
    held_by_other: bool = False
    lost_work: str = ""

    @classmethod
    def read(cls, data: Any) -> Row:
        """One row.

        Raises
        ------
        EngineError: it makes no sense.
        """
        try:
            queue, removal, ended = data.get("queue"), data.get("removal"), data.get("ended")
            failed, state = data.get("failed"), str(data["state"])
            if state == "ended" and ended is None:
                ended = told("reason", heard(data, "reason"))
            if state == "failed" and failed is None:
                failed = told("detail", heard(data, "reason"))
            return cls(
                kernel_id=str(data["kernel_id"]),
                attempt=str(data["attempt"]),
                state=state,
                name=str(data.get("name") or ""),
                size=str(data.get("size") or ""),
                kernel_name=str(data.get("kernel_name") or ""),
                path=str(data["path"]) if data.get("path") else None,
                reason=heard(data, "reason"),
                queue=_position(queue),
                share=share_of(data.get("share")),
                note=heard(data, "note"),
                address=str(data.get("address") or ""),
                detachable=data.get("detachable") is True,
                unanswered=data.get("unanswered") is True,
                lost=data.get("lost") is True,
                removal=None
                if removal is None
                else Removal(heard(removal, "reason"), _seconds(removal.get("seconds"))),
                ended=None
                if ended is None
                else Exit(int(ended.get("code", _KILLED)), heard(ended, "reason")),
                failed=None
                if failed is None
                else Failed(str(failed.get("kind", "engine")), heard(failed, "detail")),
                instance=str(data.get("instance") or ""),
                held_by_other=data.get("held_by_other") is True,
                lost_work=heard(data, "lost_work"),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise EngineError(
                "What the broker of this cluster tells of a kernel makes no sense; its version may "
                "be another. `jupyter gpu-share doctor` says which."
            ) from error

    @property
    def is_over(self) -> bool:
        """Whether there is no kernel any more, or never was."""
        return self.ended is not None or self.state in ("ended", "failed", "gone")


def share_of(data: Any) -> Share | None:
    """A share, as the contract writes it."""
    if data is None:
        return None
    devices = tuple(
        Device(str(each["uuid"]), str(each["model"]), str(each["node"])) for each in data["devices"]
    )
    return Share(
        devices,
        int(data["memory_bytes"]),
        Fraction(str(data["fraction"])),
        Isolation(data["isolation"]),
        data.get("simulated") is True,
    )


def capacity_of(data: Mapping[str, Any]) -> Capacity:
    """A GPU as a whole."""
    index, profile = data.get("index"), data.get("profile")
    return Capacity(
        uuid=str(data["uuid"]),
        model=str(data["model"]),
        node=str(data.get("node") or ""),
        memory_bytes=int(data["memory_bytes"]),
        free_bytes=int(data["free_bytes"]),
        profile=None if profile is None else str(profile),
        simulated=data.get("simulated") is True,
        kernels=int(data.get("kernels") or 0),
        index=None if index is None else int(index),
    )


def allocation_of(data: Mapping[str, Any]) -> Allocation:
    """A kernel, as the contract writes it. Fields that are left out are not known."""
    action, kept = data.get("next"), data.get("kept")
    return Allocation(
        kernel_id=str(data["kernel_id"]),
        kernel_name=str(data.get("kernel_name") or ""),
        size=str(data["size"]),
        state=State(data["state"]),
        path=data.get("path") or None,
        user=data.get("user") or None,
        reason=heard(data, "reason"),
        share=share_of(data.get("share")),
        used_bytes=data.get("used_bytes"),
        utilization=data.get("utilization"),
        idle_since=_moment(data.get("idle_since")),
        keep_until=_moment(data.get("keep_until")),
        next=NextAction(str(action["action"]), moment_in(action["at"])) if action else None,
        queue=_position(data["queue"]) if data.get("queue") else None,
        engine=str(data.get("engine") or "kubernetes"),
        backend=data.get("backend") or None,
        style=data.get("style") or None,
        kept=Kept(str(kept["how"]), tuple(map(str, kept["lost"]))) if kept else Kept(),
    )


def _position(queue: Any) -> QueuePosition:
    if queue is None:
        return _FIRST
    return QueuePosition(int(queue["position"]), int(queue["of"]))


def _seconds(value: Any) -> float:
    seconds = float(value or 0.0)
    if not isfinite(seconds):
        raise ValueError("not a number of seconds")
    return max(0.0, seconds)


def _moment(text: Any) -> datetime | None:
    return None if not text else moment_in(text)
