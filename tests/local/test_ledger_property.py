"""Whatever happens to a machine, its ledger grants nothing twice and serves who waits in order."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from ledger_world import SIZES, Kernel, Row, Server, World, made_up
from rounds import ROUNDS, SEED

from jupyter_gpu_share.engines._processes import this_boot

#: Sequences of a round, and steps of each.
SEQUENCES, STEPS = 200, 40


#: What takes nothing from anybody who lives, and what only ever makes room for who waits.
_HARMLESS = ("ask", "turns", "look", "card", "strangers", "server", "kill", "remove")
_ORDERLY = ("ask", "end", "change", "anew", "turns")


def step(world: World, before: list[Row]) -> list[Row]:
    """One thing happens; the claims after it."""
    draw = world.draw
    server = draw.choice(world.servers)
    for each in world.servers:
        each.saw = set(each.seen)
    first = world.first(before)
    own = [kernel for kernel in world.kernels.values() if kernel.server is server]
    names = {row.kernel for row in before if row.held}
    running = [kernel for kernel in own if kernel.name in names]
    what = draw.choices(
        ("ask", "end", "change", "anew", "back", "turns", "look", "card", "strangers", "server",
         "kill", "close", "remove", "behind"),
        (9, 6, 5, 3, 3, 5, 3, 3, 5, 2, 1, 1, 1, 2),
    )[0]  # fmt: skip
    if what == "ask":
        world.ask(server, f"k{len(world.log)}", draw.choice(SIZES))
    elif what == "end" and own:
        world.end(draw.choice(own))
    elif what == "change" and running:
        world.change(draw.choice(running), draw.choice(SIZES))
    elif what == "anew" and running:
        start_anew(world, server, draw.choice(running))
    elif what == "back" and running:
        come_back(world, server, draw.choice(running))
    elif what == "turns":
        world.turns(server)
    elif what == "look":
        world.look(server)
    elif what == "card":
        world.becomes(draw.choice(list(world.cards.values())))
    elif what == "strangers":
        world.strangers(draw.choice(list(world.cards.values())))
    elif what == "server" and len(world.servers) < 4:
        world.open()
    elif what == "kill":
        world.log.append(f"{server.process.pid} is killed")
        world.dies(server)
    elif what == "close":
        world.close(server)
        if not world.servers:
            world.open()
    elif what == "remove" and all(row.viewer in world.servers for row in before):
        world.file_is_removed()
    elif what == "behind":
        world.behind.clear()
        world.everybody_looks()
    world.seen[what] += 1
    after = world.rows()
    world.check(before, after)
    if what in _HARMLESS:
        world.check_that_who_lives_keeps(before, after)
    if server in world.servers and what in _ORDERLY:
        check_that_the_first_stays_first(world, first, after)
    served = what in ("ask", "turns", "behind") or (what == "end" and len(after) < len(before))
    if served and server in world.servers:
        world.check_that_nobody_waits_for_nothing(after)
    if server in world.servers:
        world.check_that_what_is_free_can_be_had(server)
    return after


def check_that_the_first_stays_first(
    world: World, before: tuple[Row, list[int]] | None, rows: list[Row]
) -> None:
    """What has to be given back for the first in the queue never becomes more."""
    after = world.first(rows)
    if before and after and before[0].token == after[0].token:
        pairs = zip(before[1], after[1], strict=True)
        assert all(new <= old for old, new in pairs), f"{after[0]} is put back"


def start_anew(world: World, server: Server, kernel: Kernel) -> None:
    """A kernel is restarted, mostly with the size that it has."""
    same = str(kernel.size) if world.draw.random() < 0.6 else world.draw.choice(SIZES)
    world.ask(server, kernel.name, same)
    if server in world.servers:
        (row,) = (row for row in world.rows() if row.kernel == kernel.name)
        assert set(row.pieces) <= set(server.seen), f"{row} is started on a GPU that is gone"


def come_back(world: World, server: Server, kernel: Kernel) -> None:
    """A kernel gives its share back, lives on, and takes it again where it was."""
    row = next((row for row in world.rows() if row.kernel == kernel.name), None)
    ledger = server.ledger
    if row is None or not row.pieces or ledger is None:
        return
    world.does(server, f"has {kernel.name} leave", lambda: ledger.release(kernel.name))
    if server in world.servers:
        world.ask(server, kernel.name, str(kernel.size), row.token, set(row.pieces))


def drain(world: World) -> None:
    """All GPUs are whole, nobody else uses them, and whoever holds ends: all are served in turn."""
    for card in world.cards.values():
        card.lost = card.split = False
        card.strangers = 0
    world.behind.clear()
    for process in {k.process for k in world.kernels.values() if k.server not in world.servers}:
        world.alive.discard(process)  # type: ignore[arg-type]
    world.kernels = {n: k for n, k in world.kernels.items() if k.server in world.servers}
    world.everybody_looks()
    while (first := world.first(before := world.rows())) is not None:
        served = [row for row in before if row.held and not row.size.is_none]
        assert served, f"{first} waits for ever"
        for row in served:
            if row.kernel in world.kernels:
                world.end(world.kernels[row.kernel])
        world.behind.clear()
        world.everybody_looks()
        after = world.rows()
        world.check(before, after)
        world.check_that_nobody_waits_for_nothing(after)


def check_that_nothing_is_left(world: World) -> None:
    """After all have died: who comes next gets the whole machine."""
    world.alive.clear()
    world.behind.clear()
    for server in world.servers:
        if server.ledger is not None:
            server.ledger._db.close()
    world.servers.clear()
    world.open(list(world.cards), may=False)
    world.ask(world.servers[0], "last", f"{len(world.cards)}x1", may=False)
    (row,) = world.rows()
    assert (row.kernel, row.held, len(row.pieces)) == ("last", True, len(world.cards))


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(600)
@pytest.mark.parametrize("batch", range(ROUNDS))
def test_memory_is_never_granted_twice(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers with different GPUs, kernels, strangers and GPUs come and go, and are killed."""
    seen: Counter[str] = Counter()
    for number in range(SEQUENCES):
        seed = f"{SEED}-{batch}-{number}"
        draw, path = random.Random(seed), tmp_path / this_boot() / f"{number}.db"
        with made_up(path, draw, monkeypatch) as world:
            try:
                world.open()
                rows = world.rows()
                for _ in range(STEPS):
                    rows = step(world, rows)
                drain(world)
                check_that_nothing_is_left(world)
            except Exception as error:
                raise AssertionError(
                    f"sequence {seed}: {error}\n" + "\n".join(world.log)
                ) from error
            seen.update(world.seen)
        path.unlink()
    print(dict(seen))
    assert (
        min(seen[what] for what in ("killed", "changed", "card", "remove", "strangers", "free"))
        > 50
    )
