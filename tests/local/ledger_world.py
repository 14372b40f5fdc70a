"""A machine on which everything happens to one ledger, and what must hold all the while.

The ledger and its file are real. Processes are made up here: a process is a number that lives or
does not, and one that is killed stops before a statement of SQL, as SIGKILL would stop it. Real
processes are killed in ``test_ledger_stress``.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpu_share.engines._processes import Holder
from jupyter_gpu_share.engines.local import _contents, _views
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.size import Size

__all__ = ["Cards", "World", "made_up"]

GIB = 2**30
#: What a GPU is split into: two halves.
PROFILE = "3g.40gb"
SIZES = (
    "1/4",
    "1/2",
    "3/4",
    "1",
    "1/3",
    "10GiB",
    "30GiB",
    "2x1/4",
    "2x1",
    "2x10GiB",
    f"mig-{PROFILE}",
    "0",
)


class KilledError(BaseException):
    """The process has ended. Nobody catches it, and nothing can be done after it."""


class Mortal(sqlite3.Connection):
    """A connection whose process ends before one of its statements."""

    #: Statements until then; None: it lives.
    left: int | None = None

    def execute(self, *args: Any) -> sqlite3.Cursor:
        self._live()
        return super().execute(*args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        self._live()
        return super().executemany(*args)

    def _live(self) -> None:
        if Mortal.left is None:
            return
        if Mortal.left == 0:
            self.close()  # what it has begun is undone, as by who opens the file next
            raise KilledError
        Mortal.left -= 1


@dataclass
class Card:
    """A GPU as it is, whoever knows it."""

    name: str
    position: int
    memory: int
    split: bool = False
    lost: bool = False
    strangers: int = 0

    def gpus(self) -> list[Gpu]:
        """What NVML shows of it."""
        if self.lost:
            return []
        if not self.split:
            return [Gpu(self.name, "A100", self.position, self.memory)]
        half = self.memory // 2
        return [
            Gpu(f"{self.name}/{n}", "A100", self.position, half, PROFILE, self.name) for n in (0, 1)
        ]


class Cards(dict[str, Card]):
    """The GPUs of the machine, by name. No two are equal."""

    def __init__(self) -> None:
        super().__init__(
            (f"G{n}", Card(f"G{n}", n, gib * GIB)) for n, gib in enumerate((24, 40, 80))
        )

    def of(self, uuid: str) -> Card:
        """That a GPU or an instance is of."""
        return self[uuid.partition("/")[0]]


@dataclass(eq=False)
class Server:
    """A Jupyter server: what its CUDA_VISIBLE_DEVICES names, and what it sees of that.

    ``saw`` is what it has seen in this step, which is what it could be given in it.
    """

    process: Holder
    visible: frozenset[str]
    ledger: Ledger | None = None
    seen: dict[str, Gpu] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    saw: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Kernel:
    """One that holds a share, or waits for it."""

    name: str
    server: Server
    size: Size
    process: Holder | None = None


@dataclass(frozen=True)
class Row:
    """A claim as it stands in the file."""

    token: str
    kernel: str
    size: Size
    held: bool
    viewer: Server
    only: frozenset[str]
    pieces: Mapping[str, int]
    processes: tuple[Holder, ...]


class World:
    """Everything that there is, and one step after the other."""

    def __init__(self, path: Path, draw: random.Random) -> None:
        self.path = path
        self.draw = draw
        self.cards = Cards()
        self.servers: list[Server] = []
        self.kernels: dict[str, Kernel] = {}
        #: Processes that live, and claims that something carries which a kernel has left behind.
        self.alive: set[Holder] = set()
        self.behind: set[str] = set()
        self.now: Server | None = None  # who does something
        self.log: list[str] = []
        self.seen: Counter[str] = Counter()
        self._numbers = iter(range(10_000_000, 20_000_000))
        self._viewers: dict[str, Server] = {}

    # -- who there is ------------------------------------------------------------------------

    def process(self) -> Holder:
        """Of a new process."""
        holder = Holder(next(self._numbers), "made up")
        self.alive.add(holder)
        return holder

    def open(self, visible: Collection[str] | None = None, *, may: bool = True) -> None:
        """A server starts."""
        names = sorted(self.cards)
        chosen = visible or self.draw.sample(names, self.draw.randint(1, len(names)))
        server = Server(self.process(), frozenset(chosen))
        self.servers.append(server)

        def begin() -> None:
            server.ledger = Ledger(self.path)
            self._viewers[server.ledger._viewer] = server
            self._look(server)

        self.does(server, f"opens, of {sorted(chosen)}", begin, may=may)

    def close(self, server: Server) -> None:
        """A server ends in good order: its kernels end with it."""
        for kernel in [k for k in self.kernels.values() if k.server is server]:
            self.end(kernel)
        if server in self.servers and server.ledger is not None:
            self.does(server, "closes", server.ledger.close)
        if server in self.servers:
            self.dies(server)

    def dies(self, server: Server) -> None:
        """What is left of a server that is killed. The others look at the GPUs within seconds."""
        self.servers.remove(server)
        self.alive.discard(server.process)
        if server.ledger is not None:
            server.ledger._db.close()
        for kernel in [k for k in self.kernels.values() if k.server is server]:
            if kernel.process is not None and self.draw.random() < 0.5:
                continue  # it lives on
            self._is_gone(kernel)
        if not self.servers:
            self.open()
        self.everybody_looks()

    def does(
        self, server: Server, what: str, work: Callable[[], object], *, may: bool = True
    ) -> Any:
        """Something that a server does, and that it ``may`` be killed at. None if it was."""
        self.log.append(f"{server.process.pid} {what}")
        self.now = server
        if may and self.draw.random() < 0.08:
            Mortal.left = self.draw.randrange(40)
        try:
            return work()
        except KilledError:
            Mortal.left = None
            self.log.append(f"{server.process.pid} is killed at that")
            self.seen["killed"] += 1
            self.dies(server)
            return None
        finally:
            Mortal.left = None

    # -- kernels -----------------------------------------------------------------------------

    def ask(
        self,
        server: Server,
        name: str,
        size: str,
        token: str = "",
        only: Collection[str] = (),
        *,
        may: bool = True,
    ) -> None:
        """A kernel is started, restarted with a size, or takes its share back."""
        kernel = self.kernels.setdefault(name, Kernel(name, server, Size.parse(size)))
        kernel.size = Size.parse(size)
        if kernel.process is not None and not token:
            self.alive.discard(kernel.process)
            kernel.process = None

        def claim() -> None:
            assert server.ledger is not None
            row = server.ledger.claim(name, kernel.size, server.process, {}, token=token, only=only)
            if row.held:
                self._start(kernel)

        self.does(server, f"asks for {size} for {name} {sorted(only)}", claim, may=may)
        if server not in self.servers and kernel.process is None:
            self.kernels.pop(name, None)

    def _start(self, kernel: Kernel) -> None:
        process, ledger = kernel.process or self.process(), kernel.server.ledger
        assert ledger is not None
        kernel.process = process
        ledger.record_kernel(kernel.name, process)

    def end(self, kernel: Kernel) -> None:
        """A kernel ends, and its server gives the share back."""
        self._is_gone(kernel)
        ledger = kernel.server.ledger
        if kernel.server in self.servers and ledger is not None:
            self.behind -= {row.token for row in self.rows() if row.kernel == kernel.name}
            self.does(kernel.server, f"ends {kernel.name}", lambda: ledger.release(kernel.name))

    def _is_gone(self, kernel: Kernel) -> None:
        self.kernels.pop(kernel.name, None)
        if kernel.process is not None:
            self.alive.discard(kernel.process)
            if self.draw.random() < 0.3:
                self.behind |= {r.token for r in self.rows() if r.kernel == kernel.name and r.held}

    def turns(self, server: Server, *, may: bool = True) -> None:
        """A server looks whether somebody is served, and starts its kernels that are."""
        ledger = server.ledger
        assert ledger is not None
        own = {k.name: k for k in self.kernels.values() if k.server is server}

        def look() -> None:
            for name, claim in ledger.turns(set(own)).items():
                if claim.held and claim.kernel is None:
                    self._start(own[name])

        self.does(server, "looks at its turns", look, may=may)

    def change(self, kernel: Kernel, size: str) -> None:
        """A kernel that runs gets another size, where there is room."""
        ledger = kernel.server.ledger
        assert ledger is not None

        def work() -> None:
            new, (row,) = Size.parse(size), (r for r in self.rows() if r.kernel == kernel.name)
            there = [g for uuid, g in self.present().items() if uuid in row.pieces]
            less = len(there) == new.count == len(row.pieces) and not new.profile
            less = less and all(
                0 < new.bytes_of(g.memory_bytes) <= row.pieces[g.uuid] for g in there
            )
            if ledger.change(kernel.name, new) is not None:
                kernel.size = new
                self.seen["changed"] += 1
            else:
                assert not less or any(g.profile for g in there), (
                    f"{row} cannot become less: {size}"
                )

        self.does(kernel.server, f"changes {kernel.name} to {size}", work)

    # -- GPUs --------------------------------------------------------------------------------

    def _look(self, server: Server) -> None:
        ledger = server.ledger
        assert ledger is not None
        found = [g for name in sorted(server.visible) for g in self.cards[name].gpus()]
        ledger.set_gpus(found)
        server.seen = {gpu.uuid: gpu for gpu in found}
        server.saw |= set(server.seen)
        others = {u: self.cards[u].strangers for u in server.seen if u in self.cards}
        ledger.set_others({uuid: amount for uuid, amount in others.items() if amount})
        server.others = others

    def look(self, server: Server, *, may: bool = True) -> None:
        """A server looks at the GPUs, as it does every few seconds."""
        self.does(server, "looks at the GPUs", lambda: self._look(server), may=may)

    def file_is_removed(self) -> None:
        """By somebody. Servers see it with the next reading."""
        self.log.append("the file is removed")
        self.path.unlink()
        for server in list(self.servers):
            assert server.ledger is not None
            self.does(server, "follows", server.ledger.follow, may=False)
        for server in list(self.servers):
            self.turns(server, may=False)

    def everybody_looks(self) -> None:
        """None is killed at that."""
        for server in list(self.servers):
            self.look(server, may=False)
        for server in list(self.servers):
            self.turns(server, may=False)

    def strangers(self, card: Card) -> None:
        """Other programs use more, or less, of what is free. A server at least sees it at once."""
        if card.lost or card.split:
            return
        held = sum(n for uuid, n in granted(self.rows()).items() if self.cards.of(uuid) is card)
        card.strangers = self.draw.choice((0, self.draw.randint(0, card.memory - held)))
        self.log.append(f"strangers use {card.strangers / GIB:.1f} GiB of {card.name}")
        if witnesses := [server for server in self.servers if card.name in server.visible]:
            for server in self.draw.sample(witnesses, self.draw.randint(1, len(witnesses))):
                self.look(server, may=False)

    def becomes(self, card: Card) -> None:
        """A GPU is lost, comes back, is split or made whole again, or has another number."""
        what = self.draw.choice(("lost", "split", "split", "number"))
        if what == "number":
            other = self.draw.choice(list(self.cards.values()))
            card.position, other.position = other.position, card.position
        elif what == "lost":
            card.lost, card.strangers = not card.lost, 0
        elif not card.strangers:
            card.split = not card.split
        self.log.append(f"{card}")
        for server in list(self.servers):
            if self.draw.random() < 0.5:
                self.look(server)

    # -- what is true ------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """All claims in the order of arrival, as they stand in the file."""
        with closing(sqlite3.Connection(self.path)) as raw:
            raw.row_factory = sqlite3.Row
            pieces: dict[str, dict[str, int]] = {}
            try:
                found = raw.execute("SELECT * FROM claims ORDER BY arrival").fetchall()
                for row in raw.execute("SELECT * FROM pieces"):
                    own = pieces.setdefault(row["token"], {})
                    assert row["uuid"] not in own
                    own[row["uuid"]] = row["memory_bytes"]
            except sqlite3.OperationalError:
                return []  # who makes the file was killed at that
        assert set(pieces) <= {row["token"] for row in found}
        return [
            Row(
                row["token"],
                row["kernel_id"],
                Size.parse(row["size"]),
                bool(row["held"]),
                self._viewers[row["viewer"]],
                frozenset(json.loads(row["only"])),
                pieces.get(row["token"], {}),
                (
                    Holder(row["pid"], row["start_time"]),
                    Holder(row["kernel_pid"] or 0, row["kernel_start_time"] or ""),
                ),
            )
            for row in found
        ]

    def present(self) -> dict[str, Gpu]:
        """What servers that live see."""
        return {uuid: gpu for server in self.servers for uuid, gpu in server.seen.items()}

    def lives(self, row: Row) -> bool:
        """Whether anything is left that may use what is held."""
        return not self.alive.isdisjoint(row.processes) or row.token in self.behind

    def wanted(self, row: Row) -> list[Gpu]:
        """The GPUs that will do for one that waits."""
        there = self.present()
        sees = [gpu for uuid, gpu in row.viewer.seen.items() if uuid in there]
        gpus = [gpu for gpu in sees if not row.only or gpu.uuid in row.only]
        if row.size.profile:
            return [gpu for gpu in gpus if gpu.profile]
        whole = [gpu for gpu in gpus if gpu.profile is None]
        # Instances are for who asks for memory, and only where there are no whole GPUs.
        return whole if whole or row.size.memory is None or row.size.count > 1 else gpus

    def lacks(self, row: Row, held: Mapping[str, int]) -> list[int] | None:
        """Bytes that have to be given back until it can be served; None: that does not help."""
        lacks = []
        for gpu in self.wanted(row):
            card = self.cards.of(gpu.uuid)
            if gpu.profile:
                need, room = gpu.memory_bytes, gpu.memory_bytes
                on = held.get(gpu.uuid, 0) or (gpu.memory_bytes if held.get(card.name) else 0)
                if (row.size.memory or 0) > gpu.memory_bytes:
                    continue
            else:
                need = row.size.bytes_of(gpu.memory_bytes)
                told = (server.others.get(card.name, 0) for server in self.servers)
                room = gpu.memory_bytes - max(told, default=0)
                on = sum(n for uuid, n in held.items() if self.cards.of(uuid) is card)
            if need <= room:
                lacks.append(max(0, need + on - room))
        lacks.sort()
        return lacks[: row.size.count] if len(lacks) >= row.size.count else None

    def first(self, rows: Collection[Row]) -> tuple[Row, list[int]] | None:
        """Of those that wait and could be served, and what has to be given back for it."""
        held = granted(rows)
        for row in rows:
            if not row.held and (lacks := self.lacks(row, held)) is not None:
                return row, lacks
        return None

    def check_that_what_is_free_can_be_had(self, server: Server) -> None:
        """Where nobody waits: all that is shown as free of a GPU, and not a byte more."""
        ledger = server.ledger
        assert ledger is not None
        shown = ledger.holdings()
        if any(not row.held for row in self.rows()):
            return
        free = {uuid: shown[uuid].free_bytes for uuid in server.seen}
        whole = [free[uuid] for uuid, gpu in server.seen.items() if gpu.profile is None]
        halves = [
            free[uuid] == gpu.memory_bytes for uuid, gpu in server.seen.items() if gpu.profile
        ]
        if most := max(whole, default=0):
            assert ledger.fits(None, Size.parse(f"{most}B")) is None, f"of {free}"
        if whole:
            assert ledger.fits(None, Size.parse(f"{most + 1}B")) is not None, f"of {free}"
        assert (ledger.fits(None, Size.parse(f"mig-{PROFILE}")) is None) == any(halves), (
            f"of {free}"
        )
        self.seen["free"] += 1

    def check(self, before: Collection[Row], after: Collection[Row]) -> None:
        """What must hold after every step."""
        held = granted(after)
        for card in self.cards.values():
            amount = sum(n for uuid, n in held.items() if self.cards.of(uuid) is card)
            assert amount + card.strangers <= card.memory, f"too much of {card} is granted"
        old = {row.token: set(row.pieces) for row in before}
        for row in after:
            if row.held and not row.size.is_none:
                assert len(row.pieces) == row.size.count, f"{row} has too few GPUs"
                assert len(set(row.pieces.values())) == 1, f"{row} has unequal memory"
            else:
                assert not row.pieces, f"{row} waits and holds"
            new = set(row.pieces) - old.get(row.token, set())
            assert new <= row.viewer.saw, f"{row} has what its server does not see"

    def check_that_who_lives_keeps(self, before: Collection[Row], after: Collection[Row]) -> None:
        """Also without its server, without the file, and what a kernel has left behind."""
        now = {row.token: row.pieces for row in after}
        for row in before:
            # Whose server does not know yet that it was granted waits again in a new file.
            if row.held and self.lives(row) and row.processes[1].pid:
                assert now.get(row.token) == row.pieces, f"{row} is not all there: {now}"

    def check_that_nobody_waits_for_nothing(self, rows: Collection[Row]) -> None:
        """Who waits for GPUs for which nobody waits before it has no room there."""
        held, before = granted(rows), set[str]()
        for row in rows:
            if not row.held and (lacks := self.lacks(row, held)) is not None:
                names = {gpu.uuid for gpu in self.wanted(row)}
                assert before & names or any(lacks), f"{row} could be served"
                before |= names


def granted(rows: Collection[Row]) -> Counter[str]:
    """Bytes by uuid."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row.pieces)
    return total


@contextmanager
def made_up(path: Path, draw: random.Random, patch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose processes are known by nobody else."""
    world = World(path, draw)
    connect = sqlite3.connect

    def mortal(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, factory=Mortal, **kwargs)

    def carriers(tokens: Collection[str]) -> dict[str, list[int]]:
        return {token: [1] if token in world.behind else [] for token in tokens}

    def process() -> Holder:
        assert world.now is not None
        return world.now.process

    with patch.context() as patched:
        patched.setattr(sqlite3, "connect", mortal)
        patched.setattr(Holder, "alive", property(lambda holder: holder in world.alive))
        patched.setattr(_contents, "carriers_of", carriers)
        patched.setattr(_views, "this_process", process)
        try:
            yield world
        finally:
            for server in world.servers:
                if server.ledger is not None:
                    server.ledger._db.close()
