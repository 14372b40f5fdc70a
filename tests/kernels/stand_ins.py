"""A controller whose engine, relay and keeper are controlled by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from waiting import eventually

from jupyter_gpu_share.allocations import Allocation, AllocationTable, Isolation, Kept, Share
from jupyter_gpu_share.engines.base import (
    Connection,
    Exit,
    KernelRequest,
    Removal,
    Running,
    Starting,
)
from jupyter_gpu_share.errors import GpuShareError, NotPossible
from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.kernels._checkpoint import Look
from jupyter_gpu_share.kernels._context import WorkContext
from jupyter_gpu_share.kernels.controller import Surroundings
from jupyter_gpu_share.kernels.facts import Event, Phase
from jupyter_gpu_share.kernels.kernel import Kernel
from jupyter_gpu_share.relay import Activity
from jupyter_gpu_share.size import Size

ID = "k"
SHARE = Share((), 10 * 2**30, Fraction(1, 2), Isolation.FRAMEWORK)
CONNECTION = Connection("tcp", "127.0.0.1", {}, b"")


class Gates:
    """Calls that a test stops on their way, by name."""

    def __init__(self) -> None:
        self.shut: dict[str, asyncio.Event] = {}
        self.reached: set[str] = set()
        self.fails: set[str] = set()
        #: Those of which only the first call fails.
        self.fails_first: set[str] = set()

    def close(self, name: str) -> asyncio.Event:
        """Stop the next calls of that name until the event is set."""
        self.reached.discard(name)
        return self.shut.setdefault(name, asyncio.Event())

    async def __call__(self, name: str) -> None:
        self.reached.add(name)
        if name in self.shut:
            await self.shut[name].wait()
        if name in self.fails | self.fails_first:
            self.fails_first.discard(name)
            raise NotPossible(f"{name} fails")


class FakeEngine:
    """One kernel's engine: ``held`` says whether the share is."""

    name = "fake"
    own_utilization = False
    shares_files = True
    sharing = (None, None)

    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.share = SHARE
        self.held = False
        self.ended: asyncio.Event | None = None
        self.signals: list[int] = []
        self.stops = self.put_aways = 0
        self.unsure = False
        self.evicts = asyncio.Event()
        self.grace = 60.0
        self.noticed = 0.0
        self.why = "It is evicted."
        self.let_go_of = 0
        self.ends_when_let_go_of = True
        self.others_keep = False

    def keeps(self, kernel_id: str) -> bool:
        return self.others_keep

    async def removed(self, kernel_id: str) -> Removal:
        await self.evicts.wait()
        removal = self.removal(kernel_id)
        assert removal is not None
        return removal

    def removal(self, kernel_id: str) -> Removal | None:
        if not self.evicts.is_set():
            return None
        now = asyncio.get_running_loop().time()
        self.noticed = self.noticed or now
        return Removal(self.why, max(0.0, self.noticed + self.grace - now))

    async def let_go(self, kernel_id: str) -> None:
        self.let_go_of += 1
        if self.ended is not None and self.ends_when_let_go_of:
            self.ended.set()

    async def start(self, request: KernelRequest, report: Any) -> Running:
        self.held = True
        try:
            report(Starting(self.share))
            await self.gates("start")
        except BaseException:
            self.held = False
            raise
        self.ended = asyncio.Event()
        return Running(self.share, CONNECTION, 1)

    async def stop(self, kernel_id: str, *, keep_share: bool = False) -> None:
        self.stops += 1
        await self.gates("stop")
        self.evicts.clear()  # that was the earlier one's
        self.noticed = 0.0
        if self.ended is not None:
            self.ended.set()
        self.held = self.held and keep_share

    async def put_away(self, kernel_id: str) -> None:
        self.put_aways += 1
        await self.stop(kernel_id)

    async def wait(self, kernel_id: str) -> Exit:
        assert self.ended is not None
        await self.ended.wait()
        return Exit(0, "It ended.")

    async def ended_before(self, kernel_id: str, work: Any, patience: float) -> Exit | None:
        await work
        return None

    async def signal(self, kernel_id: str, signum: int, *, alone: bool = False) -> None:
        self.signals.append(signum)
        if signum == 9 and self.ended is not None:
            self.ended.set()

    async def give_back(self, kernel_id: str) -> None:
        await self.gates("give_back")
        self.held = False

    def unanswered(self, kernel_id: str) -> bool:
        return self.unsure

    async def take_back(self, kernel_id: str, report: Any) -> Share:
        await self.gates("take_back")
        self.held = True
        return self.share

    async def note_path(self, kernel_id: str, path: str | None) -> None:
        pass


class FakeRelay:
    """A relay that does at once what it is told."""

    subshells = ()

    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.activity = Activity()
        self.paused = False
        self.discarded: list[str] = []
        self.told: list[str] = []
        self.live = False
        #: Cells that wait here, and that were handed to the kernel after they had.
        self.cells = self.handed = 0

    def _done(self, result: Any = None, name: str = "") -> Future[Any]:
        future: Future[Any] = Future()
        if name in self.gates.fails:
            future.set_exception(GpuShareError("too many open files"))
        else:
            future.set_result(result)
        return future

    def attach(self, back: Connection, *, paused: bool = False) -> Future[Any]:
        self.paused, self.live = paused, True
        return self._done({})

    def detach(self, gone: bool = False) -> Future[Any]:
        self.live = False
        return self._done(self.activity)

    def pause(self) -> Future[Any]:
        self.paused = True
        return self._done(self.activity)

    def resume(self, line: str = "") -> Future[Any]:
        if not self.live:
            return self._done()
        if "relay.resume" not in self.gates.fails:
            self.paused = False
            self.handed, self.cells = self.handed + self.cells, 0
        return self._done(name="relay.resume")

    def count(self) -> Future[Any]:
        return self._done(self.activity)

    def at_work(self) -> Future[Any]:
        return self._done(self.activity.pending_cells)

    def discard(self, ename: str, evalue: str) -> Future[Any]:
        self.discarded.append(ename)
        self.cells = 0
        return self._done(0)

    def hold(self, mode: Any, notice: str = "") -> None:
        pass

    def notify(self, text: str) -> None:
        self.told.append(text)

    def close(self) -> Future[Any]:
        return self._done()


class FakeKeeper:
    """Keeps a state as the test says."""

    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.kept = Kept("in-place", ())
        self.has_snapshot = self.gone = False
        self.outlives = True
        self.moved = 0
        self.language = self.saves_never = ""
        #: Words of earlier losses, whether no cell has said them, and how often a kernel was told.
        self.told: list[Path] = []
        self.owes_words, self.said = False, 0
        self.owed: list[str] = []
        self.looks = 0
        #: Whether a word lies there of what is lost if the server is killed now.
        self.rests_noted = False
        #: What the next server's kernel of the notebook says.
        self.lines: list[str] = []
        #: What only reading back finds.
        self.does_not_return: tuple[str, ...] = ()

    async def look(self, activity: Activity, *, ends: bool = False) -> Look:
        self.looks += 1
        await self.gates("look")
        return Look(kept=Kept("snapshot", ()) if ends else self.kept)

    async def present(self) -> bool:
        return True

    async def vacate(self) -> None:
        await self.gates("vacate")

    async def resume(self) -> None:
        await self.gates("resume")

    def written(self) -> int:
        return 0

    async def save(self, note: Any, **how: Any) -> tuple[str, ...]:
        await self.gates("save")
        if self.does_not_return and not how.get("lose"):
            return self.does_not_return
        self.has_snapshot = True
        return self.does_not_return

    async def load(self) -> Any:
        await self.gates("load")
        return SimpleNamespace(line="", missing=[])

    async def loaded(self, restored: Any) -> None:
        self.discard()

    def expect(self) -> None:
        pass

    async def renote(self, note: Any) -> None:
        pass

    async def rests(self, note: Any) -> None:
        self.rests_noted = True

    async def rests_no_more(self) -> None:
        self.rests_noted = False

    async def note_loss(self, note: Any, line: str) -> None:
        self.lines.append(line)

    def owe(self, line: str) -> None:
        self.owed.append(line)

    async def say_losses(self, note: Any) -> None:
        self.owes_words = bool(self.told)
        self.said += 1

    def have_said(self, activity: Activity) -> list[Path]:
        return self.told if activity.cells_done else []

    def discard(self) -> None:
        self.has_snapshot = False
        self.outlives = True


class Bench:
    """A controller with what it works on."""

    def __init__(self) -> None:
        self.gates = Gates()
        self.engine = FakeEngine(self.gates)
        self.relay = FakeRelay(self.gates)
        self.keeper = FakeKeeper(self.gates)
        self.table = AllocationTable()
        self.policy = IdlePolicy(rule="never")
        context: Any = WorkContext(ID, self.engine, self.relay, self.keeper, 5.0)  # type: ignore[arg-type]
        surroundings = Surroundings(
            self.table, self.policy, asyncio.get_running_loop(), lambda _: None, root="/root"
        )
        self.controller = Kernel(context, surroundings)

    async def launch(self, *, patience: float = 5.0) -> None:
        request = KernelRequest(ID, "python3", Size.parse("1/2"), ["python"], {}, b"")
        await self.controller.launch(request, patience=patience)

    async def until(self, phase: Phase) -> None:
        """Wait until the kernel is in this phase, and nothing is under way."""
        await eventually(
            lambda: self.controller.facts.phase is phase and self.controller.facts.work is None,
            f"the kernel is {phase.name}",
        )

    @property
    def shown(self) -> Allocation:
        row = self.table.get(ID)
        assert row is not None
        return row

    async def give_up_a_start(self) -> None:
        """Start a kernel anew, and give up before that has begun: the last one is being ended."""
        await self.launch()
        gate = self.gates.close("stop")
        self.controller.tell(Event.RESTART)
        assert self.engine.ended is not None
        self.engine.ended.set()  # in its own way
        await eventually(lambda: "stop" in self.gates.reached, "it is being ended")
        await self.launch(patience=0)
        self.controller.tell(Event.INTERRUPT)
        gate.set()
        await self.until(Phase.RELEASED)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """A controller, closed in the end."""
    made = Bench()
    try:
        yield made
    finally:
        for gate in made.gates.shut.values():
            gate.set()
        made.gates.fails.clear()
        await asyncio.wait_for(made.controller.close(), 5)
