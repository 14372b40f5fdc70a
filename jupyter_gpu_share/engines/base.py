"""What an engine is: it gives kernels a share of a GPU and runs them.

Only plain data crosses this line, so an engine may live in another process. All
methods are coroutines on the loop of :class:`~jupyter_gpu_share.runtime.Runtime`,
never on the event loop of a Jupyter server.
"""

from __future__ import annotations

import asyncio
from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from traitlets import Float
from traitlets.config import LoggingConfigurable

from .._threads import stopped
from ..allocations import Allocation, QueuePosition, Share
from ..errors import EngineError
from ..size import Size
from .idle_shares import AskedBack, IdleShare
from .user_limits import UserLimit

__all__ = [
    "Adoptable",
    "Capacity",
    "Change",
    "Connection",
    "Engine",
    "Exit",
    "Finding",
    "KernelRequest",
    "Removal",
    "Report",
    "Running",
    "Snapshot",
    "Starting",
    "Usage",
    "Waiter",
    "Waiting",
]


@dataclass(frozen=True)
class Connection:
    """Where the five sockets of a kernel are, and how to talk to them.

    Attributes
    ----------
    transport: ``tcp`` or ``ipc``.
    ip: address (tcp), or the path before ``-<port>`` (ipc), as in Jupyter connection files.
    ports: channel name (``shell``, ``iopub``, ``stdin``, ``control``, ``hb``) to number.
    key: signs the messages; the same at both ends of the relay.
    curve_publickey, curve_secretkey: Z85 text; None where the wire is not encrypted.
    """

    transport: str
    ip: str
    ports: Mapping[str, int]
    key: bytes = field(repr=False)
    signature_scheme: str = "hmac-sha256"
    curve_publickey: str | None = None
    curve_secretkey: str | None = field(default=None, repr=False)

    def url(self, channel: str) -> str:
        """The ZeroMQ endpoint of a channel."""
        return self.endpoint(self.ports[channel])

    def endpoint(self, port: int) -> str:
        """The ZeroMQ endpoint of a port; a socket for one of IPv6 has to be told of that first."""
        separator = ":" if self.transport == "tcp" else "-"
        return f"{self.transport}://{self.host}{separator}{port}"

    @property
    def host(self) -> str:
        """The address as it stands before a port."""
        return f"[{self.ip}]" if self.is_ipv6 else self.ip

    @property
    def is_ipv6(self) -> bool:
        """Whether the address is one of IPv6."""
        return self.transport == "tcp" and ":" in self.ip


@dataclass(frozen=True)
class KernelRequest:
    """A kernel that is to run.

    Attributes
    ----------
    argv: command; an element ``{connection_file}`` is replaced by the engine.
    env: environment of the kernel, complete.
    language: of the kernelspec; caps in the frameworks exist for ``python`` only.
    can_encrypt: the kernelspec declares CURVE support.
    declared: names in ``env`` that every process of the kernel gets, in a pod too.
    options: what jupyter_client passes on to the process (``cwd``, ``stdout``, ``independent``,
        …); meaningful to an engine that starts the process in this machine only.
    """

    kernel_id: str
    kernel_name: str
    size: Size
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    key: bytes = field(repr=False)
    signature_scheme: str = "hmac-sha256"
    language: str = "python"
    can_encrypt: bool = False
    path: str | None = None
    user: str | None = None
    declared: frozenset[str] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Waiting:
    """The kernel waits for room. ``reason`` is a sentence for the user."""

    queue: QueuePosition
    reason: str


@dataclass(frozen=True)
class Starting:
    """The share is held; the kernel's process is on its way.

    ``notice`` is a line for the notebook, such as what the size was rounded to.
    """

    share: Share
    notice: str = ""


Report = Callable[[Waiting | Starting], None]


@dataclass(frozen=True)
class Running:
    """The kernel's process runs and will bind ``connection``.

    ``away`` says that it may have been moved off its GPUs by a server that has ended since.
    """

    share: Share
    connection: Connection
    pid: int | None = None
    away: bool = False


@dataclass(frozen=True)
class Change:
    """Another size for a kernel that lives on, on the GPU that it has.

    Attributes
    ----------
    share: what it would hold.
    limits: what it would have to be told, as :meth:`Engine.limits` gives it then.
    beside: whether the kernel may stay on its GPU meanwhile; else its share has to be given back
        and taken again, and somebody else may be faster.
    """

    share: Share
    limits: Mapping[str, str | None]
    beside: bool = True


@dataclass(frozen=True)
class Adoptable:
    """A kernel that no server process holds any more.

    Attributes
    ----------
    key: that its process signs with, if one runs.
    saved: no process runs; its variables are saved on the server's disk.
    """

    kernel_id: str
    kernel_name: str
    size: Size
    key: bytes = field(default=b"", repr=False)
    signature_scheme: str = "hmac-sha256"
    path: str | None = None
    saved: bool = False


@dataclass(frozen=True)
class Exit:
    """The kernel is gone. ``reason`` is a sentence for the user."""

    code: int
    reason: str


@dataclass(frozen=True)
class Removal:
    """Somebody else takes away what a kernel runs in, and leaves it some time.

    Attributes
    ----------
    reason: a sentence for the user.
    seconds: that are left for saving the kernel's variables, from now on.
    """

    reason: str
    seconds: float


@dataclass(frozen=True)
class Usage:
    """A reading. ``used_bytes`` over all devices of the share; ``utilization`` 0 to 1 or None."""

    used_bytes: int | None
    utilization: float | None
    notice: str | None = None  #: to be shown in the notebook, e.g. that the share is nearly full


@dataclass(frozen=True)
class Capacity:
    """A GPU (or MIG instance) as a whole.

    Attributes
    ----------
    index: number of the GPU in the driver's order, from 0; None where it is not told.
    """

    uuid: str
    model: str
    node: str
    memory_bytes: int
    free_bytes: int
    profile: str | None = None
    simulated: bool = False
    kernels: int = 0
    index: int | None = None


@dataclass(frozen=True)
class Waiter:
    """One that waits for a share. ``kernel_id`` is None where it is not known."""

    kernel_id: str | None
    size: Size


class Snapshot(Protocol):
    """What is held and who waits at one moment, as plain data that does not change."""

    @property
    def waiting(self) -> Sequence[Waiter]:
        """Those that wait, of all servers, in the order of the queue."""

    def served(self, freed: Collection[str]) -> frozenset[int]:
        """Who would get a share if those of the kernels ``freed`` were free: places in `waiting`.

        Pure, and quick enough to be asked a few hundred times. Where it is not known who would,
        the answer is that nobody would. Kernels that hold nothing here free nothing.

        Parameters
        ----------
        freed: ids of kernels.
        """


@dataclass(frozen=True)
class Finding:
    """One line of ``doctor``.

    Attributes
    ----------
    level: ``ok``, ``note``, ``warning`` or ``error``.
    fix: what to do, where the level is not ``ok``: a command where there is one.
    """

    level: str
    what: str
    fix: str | None = None


class _EngineMeta(ABCMeta, type(LoggingConfigurable)):  # type: ignore[misc]
    pass


class Engine(ABC, LoggingConfigurable, metaclass=_EngineMeta):  # type: ignore[metaclass]
    """Gives kernels a share and runs them."""

    #: Name in the contract: ``local`` or ``kubernetes``.
    name: ClassVar[str]
    #: Whether kernels see the files of this process under the same paths.
    shares_files: ClassVar[bool] = False
    #: Whether its kernels end with the process that started them, however that ends.
    ends_with_server: ClassVar[bool] = False
    #: Whether the utilisation that it reads is the kernel's own; else the whole GPU's.
    own_utilization: ClassVar[bool] = False

    usage_interval = Float(
        2.0,
        min=0.1,
        config=True,
        help="""
        Seconds between two readings of memory and utilisation. Default 2.

        ::

            c.LocalEngine.usage_interval = 5
        """,
    )

    @abstractmethod
    async def start(self, request: KernelRequest, report: Report) -> Running:
        """Get a share, waiting in the queue as long as it takes, and start the kernel.

        Called for every start, restart and wake. A kernel that still holds a share (after
        ``stop(keep_share=True)``) keeps it where the size is the same; another size is swapped in
        one step. ``report`` is called on every change of place or state, on the runtime's loop.

        Cancelling gives up waiting. However it ends other than by returning, no share is held,
        no process runs and no file is left.

        Raises
        ------
        NoGpuError, EngineError
        """

    @abstractmethod
    async def wait(self, kernel_id: str) -> Exit:
        """Return when the kernel's process has ended. The share is still held then."""

    async def removed(self, kernel_id: str) -> Removal:
        """Return when somebody else takes away what the kernel runs in, if that ever happens.

        From then on the kernel goes on for as long as is said, and until :meth:`let_go`,
        :meth:`put_away` or :meth:`stop`. Where nobody waits here it ends at once.
        """
        never: asyncio.Future[Removal] = asyncio.get_running_loop().create_future()
        return await never

    def removal(self, kernel_id: str) -> Removal | None:
        """What :meth:`removed` has told, with the time that is left; None: nothing of the kind."""
        return None

    async def let_go(self, kernel_id: str) -> None:
        """Have a kernel end in order that is removed: nothing more is saved of it."""

    async def ended_before(
        self, kernel_id: str, work: asyncio.Future[Any], patience: float
    ) -> Exit | None:
        """Wait for work that needs the kernel; its end, where that comes first.

        Work that is not done then, or in time, is cancelled.

        Raises
        ------
        asyncio.TimeoutError: neither came within ``patience`` seconds.
        """
        ended = asyncio.ensure_future(self.wait(kernel_id))
        waiters: set[asyncio.Future[Any]] = {work, ended}
        try:
            await asyncio.wait(waiters, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return None
            if ended.done():
                return ended.result()
            raise asyncio.TimeoutError
        finally:
            await stopped(*(waiter for waiter in waiters if not waiter.done()))

    @abstractmethod
    async def signal(self, kernel_id: str, signum: int, *, alone: bool = False) -> None:
        """Send a signal to the kernel's process group; nothing where it is gone.

        ``alone``: to its first process only, and to none of those that users' code has started.
        """

    @abstractmethod
    async def stop(self, kernel_id: str, *, keep_share: bool = False) -> None:
        """End the kernel now if it runs, and give its share back unless ``keep_share``.

        Idempotent; called after every end, however it came about.
        """

    async def put_away(self, kernel_id: str) -> None:
        """End the process of a kernel whose notebook goes on, and give its share back.

        Called where the variables are kept for a wake, or are not wanted. :meth:`stop` is called
        when that kernel ends.
        """
        await self.stop(kernel_id)

    @abstractmethod
    async def usage(self, busy: frozenset[str]) -> dict[str, Usage]:
        """Readings of the kernels that this process started, by kernel id.

        Called every ``usage_interval`` seconds. ``busy`` has the ids of the kernels in which a
        cell runs: those are interrupted when they use more than their share.
        """

    @abstractmethod
    async def capacity(self) -> list[Capacity]:
        """The GPUs with what is free of each.

        Raises
        ------
        EngineError, NoGpuError
        """

    async def gpus(self, *, known: bool = False) -> list[Capacity]:
        """The GPUs, for who does not ask what is free of them: that need not be right here.

        Parameters
        ----------
        known: by what is known already, if there is anything; nothing is read for it.

        Raises
        ------
        EngineError, NoGpuError
        """
        return await self.capacity()

    @property
    def memory_to_come(self) -> Sequence[int]:
        """Bytes of each kind of GPU that is not there and may come: bounds on sizes hold on it."""
        return ()

    @abstractmethod
    async def allocations(self) -> list[Allocation]:
        """All kernels on this engine's GPUs, those of other servers included."""

    @abstractmethod
    async def fits(self, kernel_id: str | None, size: Size) -> str | None:
        """None where ``size`` could be had at once, else a sentence that says why not.

        With ``kernel_id`` what that kernel holds counts as free.
        """

    @abstractmethod
    async def diagnose(self) -> list[Finding]:
        """What was found, what is enforced and what to fix, for ``doctor``."""

    async def fits_each(self, kernel_id: str | None, sizes: Sequence[Size]) -> list[str | None]:
        """What :meth:`fits` says of each of these sizes, all seen at one moment where it can be."""
        return [await self.fits(kernel_id, size) for size in sizes]

    async def never_fits(self, size: Size) -> str | None:
        """Why the size can never be had here, a sentence; None where it can, now or later.

        Asked before a kernel starts. An engine that cannot know says None: its start will tell.
        """
        return None

    async def snapshot(self) -> Snapshot | None:
        """What is held and who waits now; None where nobody is known to wait.

        Raises
        ------
        EngineError
        """
        return None

    async def wanted(self, idle: Mapping[str, IdleShare]) -> Mapping[str, AskedBack] | None:
        """Which of these kernels' shares are asked back, where somebody decides that for all users.

        Called every ``usage_interval`` seconds with all idle kernels of this process, whatever
        their users' rules. None: each process decides for itself, by :meth:`snapshot`.

        Parameters
        ----------
        idle: by kernel id.

        Raises
        ------
        EngineError
        """
        return None

    async def adoptable(self) -> list[Adoptable]:
        """Kernels of an earlier process of this server that still run.

        Asked by the server extension when the server has started. ``start`` under the id of one
        of them takes it over as it is, with its variables; the keys of its session are the ones
        given here.
        """
        return []

    @property
    def more_to_adopt(self) -> bool:
        """Whether kernels may be :meth:`adoptable` later that were not when that was asked last."""
        return False

    async def user_limits(self) -> Sequence[UserLimit]:
        """The limits of the one whose server this is, where a broker tells some.

        As they were when :meth:`capacity` was asked last: nobody is asked again for them.
        """
        return ()

    async def rounding(self, size: Size) -> str:
        """What a size becomes here, a sentence for the user; empty where it is exact.

        Raises
        ------
        EngineError, NoGpuError
        """
        return ""

    async def losses(self, path: str) -> Sequence[str]:
        """What earlier kernels of a notebook have lost, one line for its user each; told once.

        Of what this server's processes have noted themselves, nothing is told here.

        Parameters
        ----------
        path: of the notebook, as :class:`KernelRequest` has it.
        """
        return ()

    async def leave(self) -> None:
        """Tell who has to know that this process is about to end. Takes a moment at most.

        Its server may be killed right after. :meth:`stop` and :meth:`close` follow, if it is not.
        """

    def keeps(self, kernel_id: str) -> bool:
        """Whether a running kernel outlives this process, which has told that it ends.

        Somebody else looks after it then: it is neither saved nor ended here, and :meth:`stop`
        only lets go of it.
        """
        return False

    @property
    def sharing(self) -> tuple[str | None, str | None]:
        """Sharing backend and style of holding shares, where the engine has such a thing."""
        return None, None

    @property
    def place(self) -> str:
        """Where kernels run, in words for people; empty where that is this machine."""
        return ""

    async def note_path(self, kernel_id: str, path: str | None) -> None:
        """A kernel's notebook has another path now: what others are told of it follows.

        Raises
        ------
        EngineError: others still see the old one.
        """

    def detachable(self, kernel_id: str) -> bool:
        """Whether this kernel's share can go and come back while its process lives."""
        return False

    async def give_back(self, kernel_id: str) -> None:
        """Give back the share of a kernel that goes on living.

        The caller has made sure that the kernel's process holds no memory of the GPU. Where it is
        not known for long what became of it, this returns: it goes on, and is not turned back.

        Raises
        ------
        EngineError: that cannot be done; it is known that the share is still held.
        """
        raise EngineError("The kernel's share is part of its process; it cannot be given back.")

    def unanswered(self, kernel_id: str) -> bool:
        """Whether it is not known yet that a share which the kernel gave back is free."""
        return False

    async def take_back(self, kernel_id: str, report: Report) -> Share:
        """Hold the share again for a kernel that gave it back, waiting as long as it takes.

        Called before anything of the kernel's is moved onto the GPU. However it ends other than
        by returning, no share is held.

        Raises
        ------
        EngineError: the kernel has ended.
        """
        raise EngineError("The kernel's share is part of its process; it was not given back.")

    async def plan_change(self, kernel_id: str, size: Size) -> Change | None:
        """How a living kernel could hold another size on its GPU; None: it cannot, or not now.

        Of one that gave its share back it is not asked whether there is room now.
        """
        return None

    async def change(self, kernel_id: str, size: Size) -> Share:
        """Hold another size for a living kernel, on its GPU, at no moment less than the smaller.

        Of one that gave its share back this is what it takes again.

        Raises
        ------
        EngineError: that is not possible, or not now. It holds what it held.
        """
        raise EngineError("The kernel's share is part of its process; it cannot be changed.")

    async def limits(self, kernel_id: str) -> Mapping[str, str | None]:
        """What tells the kernel of its share, and keeps frameworks to it: its environment.

        Names of variables with their values; None: it is not set.
        """
        return {}

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; kernels that still run are ended, unless started as independent."""
