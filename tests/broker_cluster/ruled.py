"""The rules of a cluster's broker over simulated GPUs, in simulated time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from moments import Clock
from simulated_line import Floor

from jupyter_gpu_share.broker.claim import Claim
from jupyter_gpu_share.broker.cluster.rules import Rules, Settings
from jupyter_gpu_share.broker.cluster.ruling import Key, Wish
from jupyter_gpu_share.broker.idle import Promise
from jupyter_gpu_share.broker.limits import Limits
from jupyter_gpu_share.engines.base import Capacity, Waiter
from jupyter_gpu_share.errors import EngineError, KernelStartError
from jupyter_gpu_share.idle.replay import Gpus
from jupyter_gpu_share.size import Size

GIB = 2**30


@dataclass
class Parted:
    """A snapshot of one pool of GPUs that is counted, not placed."""

    free: Fraction
    holds: Mapping[str, Fraction]
    wants: Sequence[Claim]

    @property
    def waiting(self) -> Sequence[Waiter]:
        return [Waiter(each.kernel_id, each.size) for each in self.wants]

    def served(self, freed: Collection[str]) -> frozenset[int]:
        room = self.free + sum((self.holds.get(name, Fraction(0)) for name in freed), Fraction(0))
        found = set()
        for number, each in enumerate(self.wants):
            if each.gpus <= room:
                room -= each.gpus
                found.add(number)
        return frozenset(found)


@dataclass
class FakeSight:
    """A fake of the cluster: a number of GPUs, of which the rules' own claims hold parts."""

    count: int = 1
    rules: Rules | None = None
    away: bool = False
    looks: int = 0
    coming: Sequence[Capacity] = ()

    def _check(self) -> None:
        self.looks += 1
        if self.away:
            raise EngineError("The cluster does not answer.")

    @property
    def held(self) -> dict[str, Claim]:
        assert self.rules is not None
        known = self.rules.holdings.known.items()
        return {name: each for name, each in known if each.held_since is not None}

    def to_come(self) -> Sequence[Capacity]:
        return self.coming

    async def gpus(self) -> list[Capacity]:
        if self.rules is not None:
            self._check()
        return [Capacity(f"GPU-{n}", "A100", "n1", 80 * GIB, 80 * GIB) for n in range(self.count)]

    async def room(self, waiting: Sequence[Claim]) -> Floor:
        self._check()
        gpus = Gpus(self.count)
        for each in self.held.values():
            gpus.take(each.size)
        return Floor(gpus)

    async def snapshot(self, waiting: Sequence[Claim]) -> Parted:
        self._check()
        holds = {name: each.gpus for name, each in self.held.items()}
        return Parted(self.count - sum(holds.values(), Fraction(0)), holds, waiting)


@dataclass
class FakeKernels:
    """A fake of the registry of kernels: it notes what is asked of it."""

    rules: Rules
    given_back: list[Key] = field(default_factory=list)
    ended: list[tuple[Key, str]] = field(default_factory=list)
    refuses: bool = False
    #: What the next broker would know of promises.
    remembered: dict[str, Promise] = field(default_factory=dict)
    writes: int = 0
    #: How many writes the cluster does not take.
    unwritten: int = 0
    #: What each kernel that holds something is told of its share.
    share: dict[str, Any] | None = None

    def rows(self) -> Iterable[tuple[Key, Mapping[str, Any]]]:
        for claim in self.rules.holdings.known.values():
            key = Key(claim.user, claim.server, claim.name)
            share = self.share if claim.held_since is not None else None
            yield key, {"path": f"{claim.name}.ipynb", "kernel_name": "python3", "share": share}

    async def give_back(self, key: Key) -> None:
        if self.refuses:
            raise KernelStartError("Its share is part of its pod.")
        self.given_back.append(key)
        self.rules.gave_back(key)

    async def remember(self, key: Key, promise: Promise | None) -> None:
        if self.unwritten:
            self.unwritten -= 1
            raise EngineError("The cluster does not answer.")
        self.writes += 1
        if promise is None:
            self.remembered.pop(key.text, None)
        else:
            self.remembered[key.text] = promise

    def end(self, key: Key, words: str) -> bool:
        if key.text not in self.rules.holdings.known:
            return False
        self.ended.append((key, words))
        self.rules.drop(key)
        return True


def key(user: str, kernel: str, server: str = "") -> Key:
    return Key(user, server, kernel)


def wish(user: str, kernel: str, size: str = "1/4", *groups: str, server: str = "") -> Wish:
    return Wish(key(user, kernel, server), Size.parse(size), frozenset(groups))


def hold(rules: Rules, asked: Wish) -> None:
    """Have a kernel hold its share."""
    assert rules.reserve(asked) is None
    rules.holds(asked.key)


@asynccontextmanager
async def ruled(
    folder: Path,
    clock: Clock,
    *,
    limits: list[dict[str, Any]] | None = None,
    count: int = 1,
    there: Iterable[Wish] = (),
    coming: Sequence[Capacity] = (),
    **more: Any,
) -> AsyncIterator[tuple[Rules, FakeSight]]:
    """Rules that have begun, over what earlier ones left in the folder.

    ``there``: the kernels that hold a share when they begin.
    """
    sight = FakeSight(count, coming=coming)
    settings = Settings(folder, Limits(limits) if limits else None, **more)
    rules = Rules(settings, sight, clock)
    await rules.open()
    sight.rules = rules
    for each in there:
        rules.reserve(each)
        rules.holds(each.key)
    rules.begin()
    try:
        yield rules, sight
    finally:
        await rules.save()
