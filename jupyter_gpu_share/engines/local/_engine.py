"""The engine ``local``: kernels as processes of this machine, on shares that a ledger keeps."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..._threads import in_thread, to_the_end
from ...allocations import Allocation, Isolation, QueuePosition, Share
from ...broker.client import BrokerAway
from ...errors import EngineError, GpuShareError, LedgerError, NoGpuError
from ...sentences import say, words_of
from ...size import Size
from .._caps import limits_of
from .._processes import Holder, this_process
from .._supervisor import Supervisor
from ..base import (
    Capacity,
    Change,
    Exit,
    Finding,
    KernelRequest,
    Report,
    Running,
    Snapshot,
    Starting,
    Usage,
    Waiting,
)
from ..idle_shares import AskedBack, IdleShare
from ..user_limits import UserLimit
from . import _doctor
from ._brokered import BrokeredLedger
from ._contents import Holding
from ._contexts import too_small
from ._enforcement import MpsStatus, mps_status
from ._everybody import capacity_of
from ._folders import is_common, ledger_folder
from ._home import Home, find_home
from ._inventory import Inventory
from ._launch import Launcher
from ._ledger import Claim, Ledger
from ._leftovers import Leftovers
from ._machine import Machine, processes_of
from ._placement import never_fits
from ._process import KernelProcess
from ._returns import Returns
from ._rows import allocation_of, fraction_of, info_of, share_of, told_of, with_isolation
from ._settings import LocalSettings
from ._shares import Shares
from ._simulated import slug
from ._walls import Wall, about_limiter
from ._watcher import Watcher

__all__ = ["LocalEngine"]

T = TypeVar("T")

#: Seconds between two tries to reach a broker of which nothing is known yet.
_AWAY_INTERVAL = 0.5


@dataclass
class _Kernel:
    """What this engine knows of a kernel that it runs."""

    request: KernelRequest
    share: Share
    token: str
    supervisor: Supervisor
    mps: MpsStatus  #: as it was when the process started
    wall: Wall
    process: KernelProcess | None = None
    lent: bool = False  #: its share was given back while the process lives
    told: str = ""  #: the last notice about its GPUs

    @property
    def independent(self) -> bool:
        """True where it is to survive this process."""
        return bool(self.request.options.get("independent"))


class LocalEngine(LocalSettings):
    """Runs kernels on this machine. Several servers share its GPUs through one ledger."""

    name: ClassVar[str] = "local"
    shares_files: ClassVar[bool] = True
    ends_with_server: ClassVar[bool] = True
    own_utilization: ClassVar[bool] = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # One thread: the ledger's connection belongs to it, and work on it keeps its order.
        self._desk = ThreadPoolExecutor(1, thread_name_prefix="gpu-share-ledger")
        self._ledger: Shares | None = None
        self._home: Home | None = None
        self._finding = asyncio.Lock()
        self._kernels: dict[str, _Kernel] = {}
        self._holder: Holder = this_process()
        self._watcher = Watcher(self._at_ledger, lambda: self.queue_interval)
        self._machine = Machine(
            self._at_ledger,
            self._watcher.look,
            lambda: self._simulation,
            lambda: self._simulated_dir,
        )
        self._launcher = Launcher(
            self, self._holder, self._machine, lambda: self._simulated_dir, self._is_common
        )
        self._leftovers = Leftovers()
        self._returns = Returns(
            self._at_ledger, self._watcher.look, lambda kernel_id: kernel_id in self._kernels
        )
        self._closed = False

    # -- start and end -----------------------------------------------------------------------

    async def start(self, request: KernelRequest, report: Report) -> Running:
        """See :meth:`Engine.start <jupyter_gpu_share.engines.base.Engine.start>`."""
        try:
            share, token = await self._hold(request, report)
            mps = await self._launcher.mps(share)
            additions, isolation = await self._launcher.environment(request, share, token, mps)
            share = with_isolation(share, isolation)
            report(Starting(share))
            wall = Wall(self.limiter, token, share)
            kernel = _Kernel(request, share, token, Supervisor(share.memory_bytes), mps, wall)
            self._kernels[request.kernel_id] = kernel
            await wall.build(share, mps)
            kernel.process = await self._launcher.spawn(request, additions, wall)
            await self._record(kernel)
        except BaseException:
            await to_the_end(self.stop(request.kernel_id))
            raise
        return Running(share, kernel.process.connection, kernel.process.pid)

    async def _hold(self, request: KernelRequest, report: Report) -> tuple[Share, str]:
        """Wait in the queue until the share is held."""
        size, kernel_id = request.size, request.kernel_id
        if size.is_none:
            await self.stop(kernel_id)  # what it held under another size
            return Share((), 0, Fraction(0), Isolation.NONE), ""
        await self._reach_broker(report)
        if why := await self.never_fits(size):
            raise NoGpuError(why)
        claim = await self._wait_for_turn(
            lambda ledger: ledger.claim(kernel_id, size, self._holder, info_of(request)), report
        )
        found = await self._gpus()  # they may have changed while it waited
        return share_of(claim, found.gpus), claim.token

    async def _reach_broker(self, report: Report) -> None:
        """Wait, and say so, while the machine's broker does not even tell what GPUs there are."""
        told = ""
        while True:
            try:
                await self._find_home()
                return
            except BrokerAway as error:
                if words_of(error) != told:
                    told = words_of(error)
                    report(Waiting(QueuePosition(1, 1), told))
            await asyncio.sleep(_AWAY_INTERVAL)

    async def _wait_for_turn(self, ask: Callable[[Shares], Claim], report: Report) -> Claim:
        claim = await self._at_ledger(ask)
        if claim.held:
            return claim
        following = asyncio.create_task(self._machine.follow())
        try:
            return await self._watcher.wait(claim, report)
        finally:
            following.cancel()

    async def _record(self, kernel: _Kernel) -> None:
        if not kernel.token or kernel.process is None:
            return
        holder, kernel_id = Holder.of(kernel.process.pid), kernel.request.kernel_id
        info = told_of(kernel.request, kernel.share)

        def record(ledger: Shares) -> None:
            ledger.record_kernel(kernel_id, holder)
            ledger.set_info(kernel_id, info)

        await self._at_ledger(record)

    async def wait(self, kernel_id: str) -> Exit:
        """See :meth:`Engine.wait <jupyter_gpu_share.engines.base.Engine.wait>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None or kernel.process is None:
            return Exit(0, say("no-process"))
        return kernel.wall.explain(await kernel.process.wait())

    async def signal(self, kernel_id: str, signum: int, *, alone: bool = False) -> None:
        """See :meth:`Engine.signal <jupyter_gpu_share.engines.base.Engine.signal>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is not None and kernel.process is not None:
            kernel.process.signal(signum, alone=alone)

    async def stop(self, kernel_id: str, *, keep_share: bool = False) -> None:
        """See :meth:`Engine.stop <jupyter_gpu_share.engines.base.Engine.stop>`."""
        await self._end_process(kernel_id)
        if keep_share:
            if kernel_id in self._kernels:
                await self._kernels[kernel_id].wall.tear_down()
            return
        await self._let_go(kernel_id, lives_on=False)

    async def put_away(self, kernel_id: str) -> None:
        """See :meth:`Engine.put_away <jupyter_gpu_share.engines.base.Engine.put_away>`."""
        await self._end_process(kernel_id)
        await self._let_go(kernel_id, lives_on=True)

    async def _end_process(self, kernel_id: str) -> None:
        kernel = self._kernels.get(kernel_id)
        if kernel is not None and kernel.process is not None:
            await kernel.process.end()
            kernel.process = None

    async def _let_go(self, kernel_id: str, *, lives_on: bool) -> None:
        """Give back what a kernel without a process has."""
        kernel = self._kernels.pop(kernel_id, None)
        if kernel is not None and kernel.token:
            # What the kernel left running would go on using the GPU without a share.
            await self._leftovers.end(kernel.token)
        if self._ledger is not None:
            wall = kernel.wall if kernel is not None else None
            await self._returns.give(kernel_id, wall, lives_on=lives_on)

    async def note_path(self, kernel_id: str, path: str | None) -> None:
        """See :meth:`Engine.note_path <jupyter_gpu_share.engines.base.Engine.note_path>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            return
        kernel.request = replace(kernel.request, path=path)
        if kernel.token and not kernel.lent:
            info = told_of(kernel.request, kernel.share)
            await self._at_ledger(lambda ledger: ledger.set_info(kernel_id, info))

    # -- shares of living kernels ------------------------------------------------------------

    def detachable(self, kernel_id: str) -> bool:
        """See :meth:`Engine.detachable <jupyter_gpu_share.engines.base.Engine.detachable>`."""
        kernel = self._kernels.get(kernel_id)
        return kernel is not None and kernel.process is not None and bool(kernel.token)

    async def give_back(self, kernel_id: str) -> None:
        """See :meth:`Engine.give_back <jupyter_gpu_share.engines.base.Engine.give_back>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is not None:
            await kernel.wall.close(kernel.share)
        try:
            await self._at_ledger(lambda ledger: ledger.give_back(kernel_id))
        except GpuShareError:  # it is still held, and its process comes back to it
            if kernel is not None:
                await to_the_end(kernel.wall.move(kernel.share))
            raise
        if kernel is not None:
            kernel.lent = True
        self._watcher.look()

    async def take_back(self, kernel_id: str, report: Report) -> Share:
        """See :meth:`Engine.take_back <jupyter_gpu_share.engines.base.Engine.take_back>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None or kernel.process is None:
            raise EngineError(say("has-ended"))
        request, token = kernel.request, kernel.token
        # What its memory was copied from, and is copied back to.
        only = {device.uuid for device in kernel.share.devices}
        try:
            await self._wait_for_turn(
                lambda ledger: ledger.claim(
                    kernel_id, request.size, self._holder, info_of(request), token=token, only=only
                ),
                report,
            )
            await kernel.wall.move(kernel.share)
            await self._record(kernel)
        except BaseException:
            await to_the_end(self._returns.give(kernel_id, lives_on=True))
            raise
        kernel.lent = False
        return kernel.share

    async def plan_change(self, kernel_id: str, size: Size) -> Change | None:
        """See :meth:`Engine.plan_change <jupyter_gpu_share.engines.base.Engine.plan_change>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None or kernel.process is None or not kernel.token or size.is_none:
            return None
        held = kernel.request.size
        # What MPS allows a process is settled when it starts; an instance is what it is.
        fixed = kernel.share.isolation in (Isolation.MPS, Isolation.HARDWARE)
        if fixed or size.profile or held.profile or size.count != held.count:
            return None
        found = await self._gpus()
        by_uuid = {gpu.uuid: gpu for gpu in found.gpus}
        own = [by_uuid[device.uuid] for device in kernel.share.devices if device.uuid in by_uuid]
        # One that is away waits for its own GPUs only: it would for ever where they are too small.
        if any(gpu.profile for gpu in own) or never_fits(size, own):
            return None
        if too_small(size, own, found.contexts):
            return None
        if not kernel.lent and not await self._at_ledger(
            lambda ledger: ledger.change(kernel_id, size, dry=True)
        ):
            return None
        memory = min(size.bytes_of(gpu.memory_bytes) for gpu in own)
        fraction = fraction_of(size, memory, own[0].memory_bytes)
        share = replace(kernel.share, memory_bytes=memory, fraction=fraction)
        additions, isolation = await self._launcher.environment(
            kernel.request, share, kernel.token, kernel.mps
        )
        limits = limits_of({**kernel.request.env, **additions})
        return Change(with_isolation(share, isolation), limits)

    async def change(self, kernel_id: str, size: Size) -> Share:
        """See :meth:`Engine.change <jupyter_gpu_share.engines.base.Engine.change>`."""
        planned = await self.plan_change(kernel_id, size)
        kernel = self._kernels.get(kernel_id)
        if planned is None or kernel is None:
            raise EngineError(say("no-room", size=size))
        request = replace(kernel.request, size=size)
        info = told_of(request, planned.share)
        if not kernel.lent:
            await self._change(kernel, size, planned.share, info)
        kernel.request, kernel.share = request, planned.share
        kernel.supervisor = Supervisor(kernel.share.memory_bytes)
        self._watcher.look()
        return kernel.share

    async def _change(
        self, kernel: _Kernel, size: Size, share: Share, info: Mapping[str, Any]
    ) -> None:
        """In the ledger and behind the wall: nobody gets what is not free yet."""
        kernel_id, before = kernel.request.kernel_id, kernel.share
        grows = share.memory_bytes > before.memory_bytes
        if not grows:
            await kernel.wall.move(share)
        try:
            if not await self._at_ledger(lambda ledger: ledger.change(kernel_id, size, info)):
                raise EngineError(say("others-were-faster", size=size))
        except BaseException:
            if not grows:
                await to_the_end(kernel.wall.move(before))
            raise
        if not grows:
            return
        try:
            await kernel.wall.move(share)
        except BaseException:
            old = kernel.request
            undo = self._at_ledger(
                lambda ledger: ledger.change(kernel_id, old.size, told_of(old, before))
            )
            await to_the_end(undo)
            raise

    async def limits(self, kernel_id: str) -> Mapping[str, str | None]:
        """See :meth:`Engine.limits <jupyter_gpu_share.engines.base.Engine.limits>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None or not kernel.token:
            return {}
        additions, _ = await self._launcher.environment(
            kernel.request, kernel.share, kernel.token, kernel.mps
        )
        return limits_of({**kernel.request.env, **additions})

    # -- readings ----------------------------------------------------------------------------

    async def usage(self, busy: frozenset[str]) -> dict[str, Usage]:
        """See :meth:`Engine.usage <jupyter_gpu_share.engines.base.Engine.usage>`."""
        running = {
            kernel_id: kernel.process.pid
            for kernel_id, kernel in self._kernels.items()
            if kernel.process is not None and kernel.share.devices
        }
        if not running:
            return {}
        with suppress(LedgerError):  # told where something is asked of it
            await self._at_ledger(lambda ledger: ledger.follow())
        readings = await self._machine.read(running)
        result: dict[str, Usage] = {}
        for kernel_id, reading in readings.items():
            kernel = self._kernels.get(kernel_id)
            if kernel is None:
                continue
            uuids = [device.uuid for device in kernel.share.devices]
            verdict = kernel.supervisor.judge(reading.most_of(uuids), busy=kernel_id in busy)
            if verdict.interrupt:
                await self.signal(kernel_id, signal.SIGINT)
            news, told = self._machine.news(kernel.share, reading), kernel.told
            kernel.told = news
            notice = news if news and news != told else verdict.notice
            result[kernel_id] = Usage(reading.used_bytes, reading.utilization, notice)
        return result

    async def capacity(self) -> list[Capacity]:
        """See :meth:`Engine.capacity <jupyter_gpu_share.engines.base.Engine.capacity>`."""
        found = await self._gpus()
        holdings = await self._at_ledger(lambda ledger: ledger.holdings())
        return [capacity_of(gpu, holdings.get(gpu.uuid, Holding())) for gpu in found.gpus]

    async def user_limits(self) -> Sequence[UserLimit]:
        """See :meth:`Engine.user_limits <jupyter_gpu_share.engines.base.Engine.user_limits>`."""
        return await self._at_ledger(lambda ledger: ledger.user_limits())

    async def allocations(self) -> list[Allocation]:
        """See :meth:`Engine.allocations <jupyter_gpu_share.engines.base.Engine.allocations>`."""
        found = await self._gpus()
        claims = await self._claims()
        readings = await self._machine.read(processes_of(claims))
        return [allocation_of(claim, found.gpus, readings.get(claim.kernel_id)) for claim in claims]

    async def rounding(self, size: Size) -> str:
        """See :meth:`Engine.rounding <jupyter_gpu_share.engines.base.Engine.rounding>`."""
        if why := await self.never_fits(size):
            raise NoGpuError(why)
        return ""

    async def fits(self, kernel_id: str | None, size: Size) -> str | None:
        """See :meth:`Engine.fits <jupyter_gpu_share.engines.base.Engine.fits>`."""
        return (await self.fits_each(kernel_id, [size]))[0]

    async def fits_each(self, kernel_id: str | None, sizes: Sequence[Size]) -> list[str | None]:
        """See :meth:`Engine.fits_each <jupyter_gpu_share.engines.base.Engine.fits_each>`."""
        answers = [await self.never_fits(size) for size in sizes]
        asked = [
            n
            for n, (size, why) in enumerate(zip(sizes, answers, strict=True))
            if why is None and not size.is_none
        ]
        if asked:
            wanted = [sizes[n] for n in asked]
            now = await self._at_ledger(lambda ledger: ledger.fits_each(kernel_id, wanted))
            for n, why in zip(asked, now, strict=True):
                answers[n] = why
        return answers

    async def never_fits(self, size: Size) -> str | None:
        """See :meth:`Engine.never_fits <jupyter_gpu_share.engines.base.Engine.never_fits>`."""
        if size.is_none:
            return None
        found = await self._gpus()
        return never_fits(size, found.gpus) or too_small(size, found.gpus, found.contexts)

    async def snapshot(self) -> Snapshot | None:
        """See :meth:`Engine.snapshot <jupyter_gpu_share.engines.base.Engine.snapshot>`."""
        if self._ledger is None:
            return None
        return await self._at_ledger(lambda ledger: ledger.snapshot())

    async def wanted(self, idle: Mapping[str, IdleShare]) -> Mapping[str, AskedBack] | None:
        """See :meth:`Engine.wanted <jupyter_gpu_share.engines.base.Engine.wanted>`."""
        if self._ledger is None:
            return None
        return await self._at_ledger(lambda ledger: ledger.wanted(idle))

    async def diagnose(self) -> list[Finding]:
        """See :meth:`Engine.diagnose <jupyter_gpu_share.engines.base.Engine.diagnose>`."""
        findings: list[Finding] = []
        try:
            found = await self._gpus()
            findings += _doctor.about_gpus(found)
            findings += _doctor.about_others(found.gpus, self._machine.others)
            findings += _doctor.about_contexts(found)
            # Nothing of it concerns a machine without a GPU, or a simulated one.
            if self.limiter and not found.simulation:
                findings.append(await in_thread(about_limiter, self.limiter))
            elif self.mps == "auto" and not found.simulation:
                common = await self._is_common()
                findings.append(_doctor.about_mps(await in_thread(mps_status), common=common))
        except LedgerError:
            pass  # told below
        except GpuShareError as error:
            findings.append(_doctor.about_no_gpu(error, self.simulate))
        try:
            home = await self._find_home()
            claims = await self._at_ledger(lambda ledger: ledger.claims())
            if home.broker is not None:
                findings.append(_doctor.about_broker(home.broker, home.user, claims))
                return findings
            findings.append(
                _doctor.about_ledger(self._ledger_path, claims, common=bool(self.directory))
            )
            findings += _doctor.about_unknown(self._ledger_path, claims)
            findings += _doctor.about_hub()
        except BrokerAway as error:
            findings.append(_doctor.about_no_broker(error))
        except LedgerError as error:
            findings.append(_doctor.about_no_ledger(self._ledger_path, error))
        return findings

    async def close(self) -> None:
        """See :meth:`Engine.close <jupyter_gpu_share.engines.base.Engine.close>`."""
        for kernel_id in await self._watcher.close():
            await self._returns.give(kernel_id)
        for kernel_id, kernel in list(self._kernels.items()):
            if not kernel.independent:
                await self.stop(kernel_id)
        await self._leftovers.close()
        self._closed = True
        await self._returns.close()
        await in_thread(self._close_ledger, executor=self._desk)
        self._desk.shutdown(wait=False)

    def _close_ledger(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()

    # -- the ledger and the GPUs -------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        # The broker's users have nothing in common but the broker.
        brokered = self._home is not None and self._home.broker is not None
        return Path(self.directory) if self.directory and not brokered else ledger_folder()

    @property
    def _simulation(self) -> str:
        return self.simulate if self._home is None else self._home.simulation

    @property
    def _ledger_path(self) -> Path:
        """Simulated GPUs have a ledger of their own: they are never mixed with real ones."""
        name = f"simulated-{slug(self._simulation)}.db" if self._simulation else "ledger.db"
        return self._folder / name

    @property
    def _simulated_dir(self) -> Path:
        return self._folder / "simulated"

    async def _find_home(self) -> Home:
        """Who keeps the shares: found out once, as what is held is held there.

        Raises
        ------
        BrokerAway: the machine's broker does not answer now.
        EngineError
        """
        async with self._finding:
            if self._home is None:
                self._home = await in_thread(find_home, self.simulate)
            return self._home

    async def _is_common(self) -> bool:
        """Whether the GPUs are shared with other users: by the broker, or in a common folder."""
        brokered = (await self._find_home()).broker is not None
        return brokered or await in_thread(is_common, self.directory)

    async def _gpus(self) -> Inventory:
        await self._find_home()
        return await self._machine.gpus()

    async def _claims(self) -> list[Claim]:
        """What is held and who waits, of all processes that are alive."""
        return await self._at_ledger(lambda ledger: ledger.living())

    async def _at_ledger(self, work: Callable[[Shares], T]) -> T:
        """Do ``work`` in the ledger's thread. Work begun is finished even if the caller leaves."""
        home = await self._find_home()

        def at_desk() -> T:
            if self._ledger is None:
                if self._closed:
                    raise LedgerError("The engine is closed.")
                self._ledger = (
                    BrokeredLedger(home.broker) if home.broker else Ledger(self._ledger_path)
                )
            return work(self._ledger)

        return await in_thread(at_desk, executor=self._desk)
