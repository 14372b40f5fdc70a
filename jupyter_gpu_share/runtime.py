"""What all kernels of one process share: the loop of the engines, the allocations, the policies.

Engines work on an event loop in a thread of their own. The loop of a Jupyter server is never held
up by them, and a kernel that waits for its share gets it even under a client that runs its own
loop only now and then, as nbclient, papermill and the console do.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from jupyter_core.paths import jupyter_data_dir
from traitlets.config import Config, LoggingConfigurable

from ._threads import in_thread, stopped
from .allocations import Allocation, AllocationTable, Kept, State
from .engines import usual_engine
from .engines.user_limits import UserLimit
from .errors import GpuShareError, NotPossible, SizeNotAllowed
from .idle import IdlePolicy
from .sentences import say, words_of
from .size import Offer, RequestStore, Size, SizeChoices, SizePolicy

if TYPE_CHECKING:
    from .engines.base import Adoptable, Capacity, Engine, Finding
    from .kernels.kernel import Kernel
    from .kernels.registry import Registry

__all__ = ["Runtime"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that kernels have to end as the process ends; engines have half of that after them.
_CLOSE_PATIENCE = 10.0
#: Seconds in which what takes longer lets go of what it has.
_LET_GO = 2.0


class Runtime(LoggingConfigurable):
    """One per process; :meth:`instance` makes it when it is first needed."""

    _instance: ClassVar[Runtime | None] = None
    _instance_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = AllocationTable()
        self.requests = RequestStore()
        self.choices = SizeChoices(Path(jupyter_data_dir()) / "gpu-share" / "sizes")
        self.policy = SizePolicy(parent=self)
        self.idle_policy = IdlePolicy(parent=self)
        #: Posts a server's wish to end one of its kernels; None where there is no server.
        self.end_kernel: Callable[[str], None] | None = None
        #: True once the server is about to end: no kernel starts any more.
        self.stopping = False
        #: Kernels of an earlier process that are about to be taken over, by id.
        self.adopted: dict[str, Adoptable] = {}
        self._engines: dict[str, Engine] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._kernels: Registry | None = None
        self._thread = threading.Thread(target=self._run, name="gpu-share", daemon=True)
        self._thread.start()

    # -- one per process ---------------------------------------------------------------------

    @classmethod
    def instance(cls, config: Config | Callable[[], Config] | None = None) -> Runtime:
        """The runtime of this process, made with ``config`` by whoever comes first.

        A function is asked for it only if the runtime has to be made.
        """
        with cls._instance_lock:
            # A forked child has the object but not its thread.
            if cls._instance is None or cls._instance._pid != os.getpid():
                cls._instance = cls(config=(config() if callable(config) else config) or Config())
                _at_exit(cls.clear_instance)
            return cls._instance

    @classmethod
    def clear_instance(cls) -> None:
        """End what the runtime runs and forget it. Called when the process ends."""
        with cls._instance_lock:
            runtime, cls._instance = cls._instance, None
        atexit.unregister(cls.clear_instance)
        if runtime is not None and runtime._pid == os.getpid():
            runtime.close()

    def close(self) -> None:
        """End every kernel and the thread. Blocks while they end, for 20 seconds at most."""
        if not self._thread.is_alive():
            return
        done = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        with suppress(Exception):
            done.result(2 * _CLOSE_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_PATIENCE)

    async def _close(self) -> None:
        # What a kernel's end waits for may be away: connections are closed all the same.
        await _for_at_most(_CLOSE_PATIENCE, self._end_all())
        await _for_at_most(_CLOSE_PATIENCE / 2, self._close_engines())
        await stopped(*asyncio.all_tasks())

    async def _end_all(self) -> None:
        # A server may end without a word: what it said is kept then, too.
        if self.end_kernel is not None:
            await self._say_farewell()
        await self.kernels.close_all(park=self.end_kernel is not None)
        await self._keep_waits()
        await self._leave()

    async def _close_engines(self) -> None:
        closing = (engine.close() for engine in self._engines.values())
        await asyncio.gather(*closing, return_exceptions=True)

    async def stop(self) -> None:
        """End all kernels in good order, as their server is about to end.

        What was kept of kernels whose share was given back is left for the next server of the
        same notebooks. No kernel starts afterwards.
        """
        await self.take_leave()
        await self.call(self.kernels.close_all(park=True))
        await self._keep_waits()
        await self._leave()

    async def take_leave(self) -> None:
        """Have the engines tell that this process ends, before anything that may take long.

        No kernel starts afterwards.
        """
        self.stopping = True
        await self.call(self._say_farewell())

    async def _say_farewell(self) -> None:
        leaving = (engine.leave() for engine in self._engines.values())
        await asyncio.gather(*leaving, return_exceptions=True)

    async def _keep_waits(self) -> None:
        """Let the next server know what the idle rule has found out about its waits."""
        from .kernels.found_out import file_of, write

        await in_thread(write, file_of(), self.idle_policy.calibration)

    async def _leave(self) -> None:
        """Let the next server have what is kept, wherever it runs."""
        from .kernels.saved import leave

        await in_thread(leave, self.kept_folder)

    @property
    def kernels(self) -> Registry:
        """The kernels of this process by id. Made when it is first needed: it takes a while."""
        if self._kernels is None:
            from .kernels.found_out import file_of, read
            from .kernels.registry import Registry

            with self._instance_lock:
                if type(self)._instance is self:
                    # Relays close when the process ends: kernels have to end before that, and
                    # what was loaded last is called first. A second call does nothing.
                    _at_exit(type(self).clear_instance)
            self.idle_policy.calibration = read(file_of())
            self._kernels = Registry(self.table, self.idle_policy, self._loop, self._cull)
        return self._kernels

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    @property
    def kept_folder(self) -> Path:
        """Where variables of this process's kernels wait whose share was given back."""
        from .kernels.saved import kept_folder

        folder = self.idle_policy.snapshot_folder
        return kept_folder(Path(folder or Path(jupyter_data_dir()) / "gpu-share" / "kept"))

    # -- the bridge between event loops ------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which engines and controllers run."""
        return self._loop

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the runtime's loop and wait for it on the caller's.

        Cancelling the caller cancels the work.
        """
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    # -- engines -----------------------------------------------------------------------------

    @property
    def engine_name(self) -> str:
        """The engine that kernels use unless their kernelspec names another."""
        section = self.config.get("GpuShareProvisioner", {})
        name = section.get("engine", "")
        return name if isinstance(name, str) and name else usual_engine()

    async def engine(self, name: str = "") -> Engine:
        """The engine of that name, made when it is first needed. On the runtime's loop only."""
        name = name or self.engine_name
        if name not in self._engines:
            from .engines import make_engine

            engine = self._engines[name] = make_engine(name, parent=self)
            task = asyncio.create_task(self._watch(engine))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._engines[name]

    async def _watch(self, engine: Engine) -> None:
        """Bring readings to the kernels, and have shares go to who waits."""
        while True:
            await asyncio.sleep(engine.usage_interval)
            await self.kernels.look(engine)

    def _cull(self, kernel_id: str) -> None:
        """End a kernel for good whose share was given back long ago.

        Only a server can: it has the kernel's manager, which would start the kernel again.
        """
        if self.end_kernel is not None:
            self.end_kernel(kernel_id)

    # -- what the server and the command ask, on any loop ------------------------------------

    async def capacity(self) -> list[Capacity]:
        """The GPUs with what is free of each.

        Raises
        ------
        NoGpuError, EngineError
        """

        async def work() -> list[Capacity]:
            return await (await self.engine()).capacity()

        return await self.call(work())

    async def user_limits(self) -> Sequence[UserLimit]:
        """The user's limits, as they were told with :meth:`capacity`.

        Raises
        ------
        EngineError
        """

        async def work() -> Sequence[UserLimit]:
            return await (await self.engine()).user_limits()

        return await self.call(work())

    async def gpus(self, *, known: bool = False) -> list[Capacity]:
        """The GPUs, without what is free of them, as :meth:`Engine.gpus` tells.

        Raises
        ------
        NoGpuError, EngineError
        """

        async def work() -> list[Capacity]:
            return await (await self.engine()).gpus(known=known)

        return await self.call(work())

    async def machine(self) -> list[Allocation]:
        """All kernels on these GPUs: those of this process as it knows them, and the others'."""

        async def work() -> list[Allocation]:
            own = {row.kernel_id: row for row in self.table.all()}
            others = await (await self.engine()).allocations()
            return [*own.values(), *(row for row in others if row.kernel_id not in own)]

        return await self.call(work())

    async def outlook(self) -> tuple[datetime | None, dict[str, datetime]]:
        """See :meth:`Registry.outlook`.

        Raises
        ------
        EngineError
        """

        async def work() -> tuple[datetime | None, dict[str, datetime]]:
            return await self.kernels.outlook(await self.engine())

        return await self.call(work())

    async def history(self, kernel_id: str) -> dict[str, Any]:
        """See :meth:`Registry.history`.

        Raises
        ------
        NotPossible: no such kernel.
        """

        async def work() -> dict[str, Any]:
            return self.kernels.history(kernel_id)

        return await self.call(work())

    async def fits(self, kernel_id: str | None, size: Size) -> str | None:
        """None where the size could be had at once, else why not."""
        return (await self._fit([size], kernel_id))[0]

    async def _fit(self, sizes: Sequence[Size], kernel_id: str | None = None) -> list[str | None]:
        if not sizes:
            return []

        async def work() -> list[str | None]:
            return await (await self.engine()).fits_each(kernel_id, sizes)

        return await self.call(work())

    async def check_possible(self, size: Size) -> None:
        """Refuse a size that a kernel which starts now would be refused.

        One that has to wait is none of these.

        Raises
        ------
        SizeNotAllowed
        NotPossible: no GPU here can ever hold it.
        """
        await self.admit(None, size)

        async def work() -> str | None:
            return await (await self.engine()).never_fits(size)

        if why := await self.call(work()):
            raise NotPossible(why)

    async def offers(self, kernel_id: str | None = None) -> list[tuple[Offer, str | None]]:
        """The offered sizes, each with None where it could be had at once, else why not.

        The engine is looked at once for all of them.

        Parameters
        ----------
        kernel_id: of the kernel that would have it: what it holds counts as free, and it does not
            wait for itself. None: a new one.
        """
        offers = self.policy.offers()
        answers: dict[Size, str | None] = {}
        gpus: list[Capacity] | None = None
        for offer in offers:
            try:
                if gpus is None and self.policy.needs_capacity(offer.size, self._others(kernel_id)):
                    gpus = await self.gpus()
                await self.admit(kernel_id, offer.size, gpus)
            except GpuShareError as error:
                answers[offer.size] = words_of(error)
        left = [offer.size for offer in offers if offer.size not in answers]
        # No GPU can be had even where an engine finds none.
        for none in (True, False):
            sizes = [size for size in left if size.is_none is none]
            try:
                answers |= zip(sizes, await self._fit(sizes, kernel_id), strict=True)
            except GpuShareError as error:
                answers |= dict.fromkeys(sizes, words_of(error))
        return [(offer, answers[offer.size]) for offer in offers]

    async def admit(
        self, kernel_id: str | None, size: Size, gpus: Sequence[Capacity] | None = None
    ) -> None:
        """Hold a size against those rules that need to know the GPUs and the other kernels.

        Parameters
        ----------
        gpus: what :meth:`gpus` said a moment ago; None where it is to be asked if need be.

        Raises
        ------
        SizeNotAllowed
        """
        others = self._others(kernel_id)
        self.policy.check_total(size, others)
        if self.policy.needs_capacity(size, others):
            # Which GPU it will be is not known yet: the bounds hold on every one.
            known = await self.gpus() if gpus is None else gpus
            for memory in {*(gpu.memory_bytes for gpu in known), *await self._memory_to_come()}:
                if memory:
                    self.policy.check_on(size, memory)
                    self.policy.check_total(size, others, memory)
                elif size.fraction is not None:  # no other size goes to such a GPU
                    raise SizeNotAllowed(
                        f"{size} cannot be held against the limits here: how much memory a GPU has "
                        "is not known. Ask for an amount, such as 10GiB, or tell the administrator."
                    )

    async def _memory_to_come(self) -> Sequence[int]:
        async def work() -> Sequence[int]:
            return (await self.engine()).memory_to_come

        return await self.call(work())

    def _others(self, kernel_id: str | None) -> list[tuple[Size, int | None]]:
        """Size and bytes of what the other kernels of this process hold or ask for."""
        return [
            (Size.parse(row.size), row.share.memory_bytes if row.share else None)
            for row in self.table.all()
            if row.kernel_id != kernel_id and row.state not in (State.RELEASED, State.FAILED)
        ]

    async def adoptable(self) -> list[Adoptable]:
        """Kernels of an earlier process of this server that still run."""

        async def work() -> list[Adoptable]:
            return await (await self.engine()).adoptable()

        return await self.call(work())

    @property
    def more_to_adopt(self) -> bool:
        """Whether it is of use to ask for adoptable kernels again, however late."""
        return any(engine.more_to_adopt for engine in list(self._engines.values()))

    async def inherit(self, root: str) -> list[Adoptable]:
        """Take over what an earlier server saved of kernels whose process had ended.

        Parameters
        ----------
        root: folder of notebooks, which both have.
        """
        from .engines.base import Adoptable
        from .kernels.saved import sweep, take_over

        async def work() -> list[Adoptable]:
            lifetime = self.idle_policy.snapshot_lifetime
            if not lifetime:  # what an earlier one has left under other rules goes
                await in_thread(sweep, self.kept_folder, lifetime)
                return []
            notes = await in_thread(take_over, self.kept_folder, root, lifetime)
            return [
                Adoptable(
                    kernel_id=note.kernel_id,
                    kernel_name=note.kernel_name,
                    size=Size.parse(note.size),
                    path=note.path,
                    saved=True,
                )
                for note in notes
            ]

        return await self.call(work())

    def not_taken(self, kernel_id: str, why: str) -> None:
        """A kernel whose saved variables were taken over could not be begun: its notebook says it.

        Parameters
        ----------
        why: a sentence.
        """
        from .kernels.saved import not_taken

        not_taken(self.kept_folder, kernel_id, why)

    async def rounding(self, size: Size) -> str:
        """What a size becomes here, a sentence for the user; empty where it is exact.

        Raises
        ------
        NoGpuError, EngineError
        """

        async def work() -> str:
            return await (await self.engine()).rounding(size)

        return await self.call(work())

    async def diagnose(self) -> list[Finding]:
        """What ``doctor`` says about the engine."""

        async def work() -> list[Finding]:
            return await (await self.engine()).diagnose()

        return await self.call(work())

    async def resize(self, kernel_id: str, size: Size) -> None:
        """Set the size that the kernel's next start takes. The caller restarts it.

        Raises
        ------
        NotPossible: no such kernel, or the size does not fit now.
        SizeNotAllowed
        """
        (await self._fitting(kernel_id, size)).next_size = size

    async def change_size(self, kernel_id: str, size: Size, *, lose_variables: bool) -> bool:
        """Give a running kernel another size, with its variables.

        False where only :meth:`resize` and a restart can do it.

        Raises
        ------
        NotPossible: no such kernel, the size does not fit now, a cell runs, or variables would be
            lost without consent.
        SizeNotAllowed
        """
        kernel = await self._fitting(kernel_id, size)
        return await self.call(kernel.change_size(size, lose_variables=lose_variables))

    async def kept_by_change(self, kernel_id: str, size: Size) -> Kept:
        """What a change of size would keep, without doing it.

        Raises
        ------
        NotPossible: no such kernel, the size does not fit now, or a cell runs.
        SizeNotAllowed
        """
        kernel = await self._fitting(kernel_id, size)
        return await self.call(kernel.kept_by_change(size))

    async def kept_by_release(self, kernel_id: str) -> Kept:
        """What giving the share back would keep, without doing it.

        Raises
        ------
        NotPossible: no such kernel, or a cell runs.
        """
        return await self.call(self.kernels.find(kernel_id).kept_by_release())

    async def kept(self, kernel_id: str, *, forget: bool = False) -> dict[str, Any]:
        """See :meth:`Kernel.kept`.

        Raises
        ------
        NotPossible: no such kernel.
        """
        return await self.call(self.kernels.find(kernel_id).kept(forget=forget))

    async def _fitting(self, kernel_id: str, size: Size) -> Kernel:
        """The kernel, if it could have that size: now, unless it has to wait anyway."""
        kernel = self.kernels.find(kernel_id)
        await self.admit(kernel_id, size)
        waits = kernel.state in (State.QUEUED, State.WAKING, State.RELEASED)
        if not waits and (why := await self.fits(kernel_id, size)):
            raise NotPossible(say("no-room-to-resize", size=size, why=why))
        return kernel

    async def release(self, kernel_id: str, *, lose_variables: bool) -> Allocation:
        """Give the share back. The next cell asks for one again.

        Raises
        ------
        NotPossible: no such kernel, a cell runs, or variables would be lost without consent.
        """
        kernel = self.kernels.find(kernel_id)
        await self.call(kernel.release(lose_variables=lose_variables))
        return self.kernels.allocation(kernel_id)

    async def wake(self, kernel_id: str) -> Allocation:
        """Ask for a share again, as running a cell does.

        Raises
        ------
        NotPossible: no such kernel.
        """
        await self.call(self.kernels.find(kernel_id).wake())
        return self.kernels.allocation(kernel_id)

    async def keep(self, kernel_id: str, until: datetime | None) -> Allocation:
        """Keep the share until a moment even if unused; None takes that back.

        Raises
        ------
        NotPossible: no such kernel, or a moment past the administrator's limit.
        """
        await self.call(self.kernels.keep(kernel_id, until))
        return self.kernels.allocation(kernel_id)

    async def moved(self, kernel_id: str, path: str | None) -> None:
        """A kernel's notebook has another path now; nothing where there is no such kernel.

        Who sees the new path can rely on it: it is stored by then.
        """

        async def work() -> None:
            if kernel := self.kernels.get(kernel_id):
                await kernel.move(path)

        await self.call(work())


def _at_exit(work: Callable[[], None]) -> None:
    """Have something done when this process ends, before all that it was told so far."""
    atexit.register(work)
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        # Workers of multiprocessing end without what atexit has.
        from multiprocessing.util import Finalize

        Finalize(None, work, exitpriority=0)


async def _for_at_most(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Do something that may fail, and give it up where it takes longer."""
    task = asyncio.ensure_future(work)
    _, late = await asyncio.wait({task}, timeout=seconds)
    if late:
        task.cancel()
        await asyncio.wait({task}, timeout=_LET_GO)
        _log.warning("What this process had begun did not end within %.0f seconds.", seconds)
    elif not task.cancelled() and (error := task.exception()):
        _log.error("What this process had begun could not be ended properly", exc_info=error)
