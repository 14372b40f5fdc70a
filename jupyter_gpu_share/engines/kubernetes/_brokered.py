"""The engine ``kubernetes`` of a server without rights on the cluster: the broker makes the pods.

Kernels and their agents are talked to straight; the broker is asked for shares and pods alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import count
from typing import Any
from uuid import uuid4

import zmq.asyncio
from traitlets import Bool

from ..._threads import stopped
from ...allocations import Allocation, QueuePosition
from ...broker.client import FITS, BrokerAway, fits_of
from ...broker.http_client import HttpBroker, broker_url, pauses, share_path, token_of
from ...errors import EngineError, GpuShareError, SizeError
from ...sentences import heard, words_of
from ...size import Size
from ..base import Adoptable, Capacity, Finding, KernelRequest, Report, Running, Starting, Waiting
from ..idle_shares import AskedBack, IdleShare, ToldOfIdle, answered
from ..local._wire import idle_to_json
from ..user_limits import UserLimit
from . import _brokered_doctor
from ._answers import Once, keys_of, unless_gone
from ._followed import Followed
from ._kernel import Inside, PodKernel
from ._link import Owned
from ._machine import Machine
from ._objects import KernelPlan
from ._ownership import TAKEN_OVER
from ._pod_engine import PodEngine
from ._remote_objects import RemoteObjects
from ._row import Row, allocation_of

__all__ = ["BrokeredEngine"]

#: Seconds that a server which was told to end has for saying so: it may be killed after one.
_FAREWELL = 0.4
#: Seconds without a word of a pod that runs after which that is told, and between two looks.
_UNREACHED, _LOOK = 10.0, 1.0
#: States in which a kernel of an earlier process can be taken over.
_UP = frozenset({"ready", "released", "taking"})


@dataclass(frozen=True)
class _Found:
    """A kernel that was found to be taken over."""

    key: bytes
    size: Size
    instance: str


class BrokeredEngine(PodEngine):
    """Runs kernels in pods that the broker of the cluster makes.

    Which cluster, which images and which rules is the broker's to say. The administrator's settings
    for :class:`~._engine.KubernetesEngine` in the server itself count only where named here.
    """

    adopt = Bool(
        True,
        config=True,
        help="""
        Take over kernels that still run from before a server was restarted. Default True.

        ::

            c.KubernetesEngine.adopt = False
        """,
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: This process, among those of the server whose token it has.
        self.instance = uuid4().hex
        self._http: HttpBroker | None = None
        self._followed: Followed | None = None
        self._machine: Machine | None = None
        self._zmq: zmq.asyncio.Context | None = None
        self._found: dict[str, _Found] = {}
        #: Which of this process's starts it is, of each kernel that starts.
        self._numbers: dict[str, int] = {}
        self._count = count(1)
        self._idle = ToldOfIdle()
        self._somebody_waits = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: set[tuple[str, str]] = set()
        self._has_left = self._more_to_adopt = False
        section = self.config.get("KubernetesEngine", {})
        for name in ("adopt", "usage_interval"):
            if name in section:
                setattr(self, name, section[name])

    # -- the broker ----------------------------------------------------------------------------

    @property
    def _broker(self) -> HttpBroker:
        """The broker.

        Raises
        ------
        EngineError: the environment does not say which, or has no token.
        """
        if self._http is None:
            url = broker_url()
            if url is None:
                raise EngineError("JUPYTER_GPU_SHARE_BROKER names no broker of a cluster.")
            self._http = HttpBroker(url, token_of(), self.instance)
        return self._http

    @property
    def _rows(self) -> Followed:
        """What the broker tells of kernels, followed from now on."""
        if self._followed is None:
            self._followed = Followed(self._broker, self._unknown, self._note_waiter)
        if not self._has_left:
            self._followed.open()
        return self._followed

    async def _asked(self) -> Machine:
        """What the broker tells of the cluster now.

        Raises
        ------
        BrokerAway, BrokerRefused, EngineError
        """
        self._machine = Machine.read(await self._broker.ask("GET", "/v1/machine"))
        return self._machine

    async def _known(self) -> Machine:
        return self._machine or await self._asked()

    def _note_waiter(self) -> None:
        self._somebody_waits = True

    def _unknown(self, row: Row) -> None:
        """End a kernel of this process of which nobody here knows.

        Its start was given up before it was answered, and came to pass all the same.
        """
        key = (row.kernel_id, row.attempt)
        if key not in self._ending:
            self._ending.add(key)
            self._spawn(self._end(*key))

    async def _end(self, kernel_id: str, attempt: str) -> None:
        pause = pauses()
        try:
            while True:
                try:
                    with unless_gone():
                        path = share_path(kernel_id, f"?attempt={attempt}")
                        await self._broker.ask("DELETE", path)
                except BrokerAway:
                    await asyncio.sleep(pause())
                except EngineError as error:
                    self.log.warning("A kernel that nobody waits for is not ended: %s", error)
                    return
                else:
                    return
        finally:
            self._ending.discard((kernel_id, attempt))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- start -----------------------------------------------------------------------------------

    async def start(self, request: KernelRequest, report: Report) -> Running:
        """See :meth:`Engine.start <jupyter_gpu_share.engines.base.Engine.start>`."""
        # Before anything is waited for: in this order they were asked for.
        self._numbers[request.kernel_id] = next(self._count)
        tell, pause = Once(report), pauses()
        try:
            while self._machine is None:
                try:
                    await self._asked()
                except BrokerAway as error:
                    tell(Waiting(QueuePosition(1, 1), words_of(error)))
                    await asyncio.sleep(pause())
            return await super().start(request, report)
        finally:
            self._numbers.pop(request.kernel_id, None)

    async def _new_kernel(self, request: KernelRequest) -> PodKernel:
        machine = await self._known()
        if machine.server is None:
            raise EngineError(_brokered_doctor.NO_SERVER)
        plan = KernelPlan.of(request, encrypt=machine.encrypt)
        if self._zmq is None:
            self._zmq = zmq.asyncio.Context()
        inside = Inside(
            instance=self.instance,
            python=machine.python,
            renewal=machine.renewal,
            allowed_environment=machine.allowed_environment,
            zmq=self._zmq,
            image_of=lambda one: machine.images.get(one.kernel_name, machine.image),
        )
        number = self._numbers.get(request.kernel_id)
        return PodKernel(RemoteObjects(self._broker, self._rows, plan, number), request, inside)

    async def _begin(self, kernel: PodKernel, report: Report) -> Running:
        request = kernel.request
        found = self._found.pop(request.kernel_id, None)
        watching = asyncio.create_task(_tell_unreached(kernel, report))
        try:
            if found is None or found.key != request.key:
                return await kernel.start(report)
            if found.size != request.size:
                raise Owned(TAKEN_OVER)  # since it was found: it is not to be there twice
            return await kernel.adopt(found.instance, report)
        finally:
            await stopped(watching)

    async def adoptable(self) -> list[Adoptable]:
        """See :meth:`Engine.adoptable <jupyter_gpu_share.engines.base.Engine.adoptable>`."""
        found: dict[str, _Found] = {}
        adoptable = []
        self._more_to_adopt = True  # where it is not told
        rows = [Row.read(row) for row in await self._broker.ask("GET", "/v1/shares")]
        others = [
            row
            for row in rows
            if row.instance != self.instance and row.kernel_id not in self._kernels
        ]
        # Its process may have crashed just now, or it may be on its way up.
        self._more_to_adopt = self.adopt and any(
            not row.is_over and (row.held_by_other or row.state not in _UP) for row in others
        )
        for row in others:
            if row.held_by_other or row.state not in _UP or row.lost:
                continue
            if not self.adopt:
                self._unknown(row)
                continue
            try:
                told = await self._broker.ask("GET", share_path(row.kernel_id, "/connection"))
                keys, size = keys_of(told), Size.parse(row.size)
            except BrokerAway:
                raise
            except (EngineError, SizeError) as error:
                self.log.warning("A running kernel cannot be taken over: %s", error)
                continue
            found[row.kernel_id] = _Found(keys.key, size, row.instance)
            adoptable.append(
                Adoptable(
                    kernel_id=row.kernel_id,
                    kernel_name=row.kernel_name,
                    size=size,
                    key=keys.key,
                    signature_scheme=keys.signature_scheme,
                    path=row.path,
                )
            )
        self._found = found
        return adoptable

    @property
    def more_to_adopt(self) -> bool:
        """See :attr:`Engine.more_to_adopt <jupyter_gpu_share.engines.base.Engine.more_to_adopt>`.

        A process of this server that crashed has its kernels until it was silent for a while.
        """
        return self._more_to_adopt

    async def losses(self, path: str) -> Sequence[str]:
        """See :meth:`Engine.losses <jupyter_gpu_share.engines.base.Engine.losses>`."""
        if self._followed is None:
            return ()
        lost = [row for row in self._followed.lost_work() if row.path == path]
        for row in lost:
            self._unknown(row)  # it is told once
        return [row.lost_work for row in lost]

    # -- readings ----------------------------------------------------------------------------------

    async def capacity(self) -> list[Capacity]:
        """See :meth:`Engine.capacity <jupyter_gpu_share.engines.base.Engine.capacity>`."""
        return list((await self._asked()).gpus)

    async def gpus(self, *, known: bool = False) -> list[Capacity]:
        """See :meth:`Engine.gpus <jupyter_gpu_share.engines.base.Engine.gpus>`."""
        return list((await (self._known() if known else self._asked())).gpus)

    async def user_limits(self) -> Sequence[UserLimit]:
        """See :meth:`Engine.user_limits <jupyter_gpu_share.engines.base.Engine.user_limits>`."""
        return self._machine.limits if self._machine is not None else ()

    @property
    def memory_to_come(self) -> Sequence[int]:
        """See :attr:`Engine.memory_to_come`."""
        return self._machine.memory_to_come if self._machine is not None else ()

    async def allocations(self) -> list[Allocation]:
        """Kernels of this user, on all servers of theirs."""
        rows = await self._broker.ask("GET", "/v1/details")
        try:
            return [allocation_of(row) for row in rows]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(
                "What the broker of this cluster tells of kernels makes no sense; its version may "
                "be another. `jupyter gpu-share doctor` says which."
            ) from error

    async def fits(self, kernel_id: str | None, size: Size) -> str | None:
        """See :meth:`Engine.fits <jupyter_gpu_share.engines.base.Engine.fits>`."""
        return (await self.fits_each(kernel_id, [size]))[0]

    async def fits_each(self, kernel_id: str | None, sizes: Sequence[Size]) -> list[str | None]:
        """See :meth:`Engine.fits_each <jupyter_gpu_share.engines.base.Engine.fits_each>`."""
        if all(size.is_none for size in sizes):
            return [None] * len(sizes)
        body = {"kernel_id": kernel_id, "sizes": [str(size) for size in sizes]}
        return fits_of(await self._broker.ask("POST", FITS, body), len(sizes))

    async def rounding(self, size: Size) -> str:
        """See :meth:`Engine.rounding <jupyter_gpu_share.engines.base.Engine.rounding>`."""
        if size.is_none:
            return ""
        told = await self._broker.ask("POST", "/v1/rounding", {"size": str(size)})
        return heard(told, "note")

    async def wanted(self, idle: Mapping[str, IdleShare]) -> Mapping[str, AskedBack] | None:
        """See :meth:`Engine.wanted <jupyter_gpu_share.engines.base.Engine.wanted>`.

        The broker is told where there is something else to say than before, while somebody waits,
        and now and then: it is a sign of life, too. While it is away what it has asked for stands.
        """
        if self._has_left:
            return {}
        told, idle = self._idle, self._with_sizes(idle)
        clock = asyncio.get_running_loop().time
        waits, self._somebody_waits = self._somebody_waits, False
        if not waits and told.suffices(idle, clock()):
            return told.wanted
        now = datetime.now(timezone.utc)
        rows = {kernel_id: idle_to_json(share, now) for kernel_id, share in idle.items()}
        try:
            answer = await self._broker.ask("PUT", "/v1/idle", {"kernels": rows})
        except BrokerAway:
            self._somebody_waits |= waits
            return told.still_wanted(idle)
        self._idle = answered(answer, idle, clock(), now)
        return self._idle.wanted

    def _with_sizes(self, idle: Mapping[str, IdleShare]) -> dict[str, IdleShare]:
        """Each with the size that is held of all that this process knows."""
        sizes = {key: each.request.size for key, each in self._kernels.items()}
        return {key: replace(share, size=sizes.get(key)) for key, share in idle.items()}

    @property
    def sharing(self) -> tuple[str | None, str | None]:
        """See :attr:`Engine.sharing <jupyter_gpu_share.engines.base.Engine.sharing>`."""
        machine = self._machine
        return (None, None) if machine is None else (machine.backend, machine.style)

    @property
    def place(self) -> str:
        """See :attr:`Engine.place <jupyter_gpu_share.engines.base.Engine.place>`."""
        return self._machine.place if self._machine is not None else ""

    async def diagnose(self) -> list[Finding]:
        """See :meth:`Engine.diagnose <jupyter_gpu_share.engines.base.Engine.diagnose>`."""
        try:
            return await _brokered_doctor.examine(self._broker)
        except GpuShareError as error:
            return [_brokered_doctor.about(error)]

    # -- the end ---------------------------------------------------------------------------------

    async def leave(self) -> None:
        """See :meth:`Engine.leave <jupyter_gpu_share.engines.base.Engine.leave>`."""
        if self._has_left:
            return
        self._has_left = True
        if self._followed is None or self._http is None:
            return  # there is nothing that it has
        with suppress(EngineError):  # it notices that nothing is heard any more
            await self._http.ask("DELETE", "/v1/servers/self", patience=_FAREWELL)
        await self._followed.close()

    def keeps(self, kernel_id: str) -> bool:
        """See :meth:`Engine.keeps <jupyter_gpu_share.engines.base.Engine.keeps>`.

        The broker has its agent take it off its GPU, and keeps it for the next server.
        """
        kernel = self._kernels.get(kernel_id)
        return self._has_left and kernel is not None and kernel.alive

    async def signal(self, kernel_id: str, signum: int, *, alone: bool = False) -> None:
        """See :meth:`Engine.signal <jupyter_gpu_share.engines.base.Engine.signal>`."""
        if not self.keeps(kernel_id):
            await super().signal(kernel_id, signum, alone=alone)

    async def stop(self, kernel_id: str, *, keep_share: bool = False) -> None:
        """See :meth:`Engine.stop <jupyter_gpu_share.engines.base.Engine.stop>`.

        Once this process has said that it ends, the broker sees to all of its kernels.
        """
        if not self._has_left:
            await super().stop(kernel_id, keep_share=keep_share)
        elif kernel := self._kernels.pop(kernel_id, None):
            await kernel.let_be()

    async def close(self) -> None:
        """See :meth:`Engine.close <jupyter_gpu_share.engines.base.Engine.close>`."""
        try:
            await self.leave()
            await self._stop_all()
            await stopped(*self._tasks)
        finally:  # whoever waits for this may not wait for a broker that is away
            http, self._http = self._http, None
            if http is not None:
                await http.close()
            if self._zmq is not None:
                self._zmq.destroy(linger=100)
                self._zmq = None


async def _tell_unreached(kernel: PodKernel, report: Report) -> None:
    """Tell who waits for a kernel whose pod runs, and cannot be reached from here."""
    clock = asyncio.get_running_loop().time
    since: float | None = None
    while True:
        await asyncio.sleep(_LOOK)
        link, share = kernel.link, kernel.share
        if link is None or share is None or link.state is not None:
            since = None
        elif since is None:
            since = clock()
        elif clock() >= since + _UNREACHED:
            report(Starting(share, _brokered_doctor.NOT_REACHED))
            return
