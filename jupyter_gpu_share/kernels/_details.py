"""What is known of a kernel beside the facts that decide: what was asked for, held and told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from ..allocations import Kept, NextAction, QueuePosition, Share, State
from ..engines.base import Exit, KernelRequest, Running, Starting, Waiting
from ..size import Size
from ._idle_rule import Decision, Use

__all__ = ["Details"]


@dataclass
class Details:
    """Only the controller writes it.

    Attributes
    ----------
    request: what was asked for last.
    path: of the kernel's notebook now, within the server's folder.
    share: that is held, also while the kernel is started again.
    running: the process that answered last.
    idle: ``ACTIVE`` or ``IDLE``, as the idle rule sees a kernel that runs.
    exit: how the last process ended; ``exit_code``: as Jupyter sees it.
    progress: how far a work is that takes more than a moment.
    notice: shown in cells that wait.
    queued: whether there was no room for it at first.
    taken: its share was taken for others, and it has got none since.
    removed: why others end what it runs in.
    unsaved: why its variables could not be saved then.
    """

    request: KernelRequest | None = None
    path: str | None = None
    share: Share | None = None
    running: Running | None = None
    queue: QueuePosition | None = None
    reason: str = ""
    progress: str = ""
    kept: Kept = field(default_factory=Kept)
    idle: State = State.ACTIVE
    idle_since: datetime | None = None
    next: NextAction | None = None
    keep_until: datetime | None = None
    used_bytes: int | None = None
    use: Use = field(default_factory=Use)
    backend: str | None = None
    style: str | None = None
    exit: Exit | None = None
    exit_code: int | None = None
    notice: str = ""
    queued: bool = False
    taken: bool = False
    removed: str = ""
    unsaved: str = ""

    def begin(self, request: KernelRequest, *, saved: bool) -> None:
        """Jupyter starts the kernel, or it is taken over with what is ``saved`` of it."""
        self.request, self.path = request, request.path
        self.exit = self.exit_code = self.queue = None
        self.reason = self.notice = self.removed = self.unsaved = ""
        self.queued = self.taken = False
        self.kept = Kept("snapshot", ()) if saved else Kept()
        self.rest()

    def waits(self, news: Waiting) -> None:
        """There is no room."""
        place = f"number {news.queue.position} of {news.queue.of} waiting"
        self.notice = f"Waiting for GPU {self.size}: {place}. {news.reason}"
        self.queue, self.reason, self.share = news.queue, news.reason, None
        self.queued = True

    def starts(self, news: Starting, sharing: tuple[str | None, str | None]) -> None:
        """The share has come."""
        here = f"GPU {self.size} is here; the kernel starts." if self.queued else ""
        self.notice = f"{here} {news.notice}".strip()
        self.queue, self.reason, self.share = None, news.notice, news.share
        self.taken = False
        self.backend, self.style = sharing

    def answered(self, running: Running) -> None:
        """The kernel answers."""
        self.running, self.share = running, running.share
        self.queue, self.queued, self.taken = None, False, False
        self.removed = self.unsaved = ""

    def resized(self, size: Size, share: Share | None) -> None:
        """It has another size; ``share`` where it holds that already."""
        self.set_size(size)
        if share is not None:
            self.share = share
            if self.running is not None:
                self.running = replace(self.running, share=share)

    def set_size(self, size: Size) -> None:
        """What the next share will be."""
        assert self.request is not None
        self.request = replace(self.request, size=size)

    def without_share(self) -> None:
        """Nothing is held, and nothing waited for."""
        self.share = self.queue = None

    def rest(self) -> None:
        """It does not answer: nothing is known of its use."""
        self.used_bytes, self.use = None, Use()
        self.idle, self.idle_since, self.next = State.ACTIVE, None, None

    def decided(self, decision: Decision) -> None:
        """What the idle rule says."""
        if decision.state is not None:
            self.idle, self.idle_since = decision.state, decision.idle_since
        self.next = decision.next
        if decision.reason is not None:
            self.reason = decision.reason
        if decision.kept is not None:
            self.kept = decision.kept

    @property
    def size(self) -> str:
        """As users wrote it."""
        return str(self.request.size) if self.request else ""
