"""What a kernel keeps outlives its user's server, however the Hub ends that."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from hubs import ANN, BOB, RunningHub
from servers import Server, until
from waiting import PATIENCE

pytestmark = pytest.mark.slow

COMPUTE = "x = 42; again = [x]; numbers = (n for n in range(3))"
LOOK = "print(x, again)"


@pytest.fixture(autouse=True)
def no_servers(hub: RunningHub) -> Iterator[None]:
    """Leave no server of these users to other tests."""
    yield
    for user in (ANN, BOB):
        hub.stop_server(user)
    until(lambda: not hub.claims(), "all is free")


def released(server: Server, path: str) -> str:
    """A kernel of a notebook that has computed and given its share back, as shipped."""
    kernel_id = server.open_notebook(path)
    assert server.run_cell(kernel_id, COMPUTE) == ""
    row = server.ok(f"gpu-share/allocations/{kernel_id}/release", "POST", {})
    assert (row["state"], row["kept"]) == ("released", {"how": "in-place", "lost": []})
    return kernel_id


def next_server(hub: RunningHub, **kernels: str) -> Server:
    """Ann's next server, once it has taken over the kernels of those notebooks, and no others."""
    server = hub.server(ANN)
    wanted = {f"{name}.ipynb": kernel_id for name, kernel_id in kernels.items()}
    until(lambda: wanted.keys() <= server.notebooks().keys(), f"{wanted} are taken over")
    assert server.notebooks() == wanted
    return server


def ended(pid: int) -> bool:
    """Whether a process has ended, although its parent may not have looked."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


def test_the_hub_starts_again(hub: RunningHub) -> None:
    """Where it stops in good order, it stops its users' servers."""
    work = released(hub.server(ANN), "work.ipynb")
    hub.stop()
    hub.start_again()
    ann = next_server(hub, work=work)
    told = ann.run_cell(work, LOOK)
    assert "2 variables are back" in told and "42 [42]" in told
    assert hub.claims() == {work: (ANN, "held")}


def test_a_user_stops_their_server(hub: RunningHub) -> None:
    """What is kept is in their next one alone, until they shut its kernels down."""
    ann = hub.server(ANN)
    work, other = released(ann, "work.ipynb"), released(ann, "other.ipynb")
    busy = ann.open_notebook("busy.ipynb")
    assert hub.claims() == {busy: (ANN, "held")}
    hub.stop_server(ANN)
    assert "Of other.ipynb is lost: generator `numbers`" in hub.logs()
    until(lambda: not hub.claims(), "all is free")

    bob = hub.server(BOB)
    probe = bob.open_notebook("probe.ipynb")
    assert bob.notebooks() == {"probe.ipynb": probe}
    for path in (work, f"{work}/kept"):
        assert bob.fetch(f"gpu-share/allocations/{path}")[0] == 404
    kept = [str(path) for path in (hub.folder / "home" / ANN).rglob("*.kept")]
    assert len(kept) == 2
    assert "PermissionError" in bob.run_cell(probe, f"open({kept[0]!r})")

    ann = next_server(hub, work=work, other=other)
    assert hub.claims() == {probe: (BOB, "held")}, "nothing is held for what is kept"
    told = ann.run_cell(work, LOOK)
    assert "2 variables are back" in told and "42 [42]" in told
    assert hub.claims()[work] == (ANN, "held")
    # As *File > Shut Down* does it.
    pid = hub.process_of(ANN)
    for session in ann.ok("api/sessions"):
        ann.ok(f"api/sessions/{session['id']}", "DELETE")
    ann.ok("api/shutdown", "POST")
    until(lambda: ended(pid), "the server ends")
    assert list((hub.folder / "home" / ANN).rglob("*.kept")) == []
    next_server(hub)


def test_a_server_is_killed(hub: RunningHub) -> None:
    """What was saved is kept. A process that lives on without its share ends with its server: the
    next kernel of its notebook says so.
    """
    saved = released(hub.server(ANN), "saved.ipynb")
    hub.stop_server(ANN)
    ann = next_server(hub, saved=saved)
    in_place = released(ann, "in-place.ipynb")
    busy = ann.open_notebook("busy.ipynb")
    assert hub.claims() == {busy: (ANN, "held")}
    os.kill(hub.process_of(ANN), signal.SIGKILL)
    until(lambda: not hub.claims(), "all is free")
    ann = next_server(hub, saved=saved)
    assert "42 [42]" in ann.run_cell(saved, LOOK)
    anew = ann.open_notebook("in-place.ipynb")
    assert anew != in_place
    told = ann.run_cell(anew, LOOK)
    assert "were held" in told and "NameError" in told


def test_the_broker_is_away_between_release_and_wake(hub: RunningHub) -> None:
    """The wake waits in words for as long as it is, and has the share once it is back."""
    saved = released(hub.server(ANN), "saved.ipynb")
    hub.stop_server(ANN)
    ann = next_server(hub, saved=saved)
    in_place = released(ann, "in-place.ipynb")
    hub.kill_broker()
    with ThreadPoolExecutor() as threads:
        cells: dict[str, Future[str]] = {
            each: threads.submit(ann.run_cell, each, LOOK) for each in (saved, in_place)
        }
        try:
            for each in cells:

                def waits(kernel_id: str = each) -> bool:
                    row = ann.ok(f"gpu-share/allocations/{kernel_id}")
                    return row["share"] is None and "broker" in row["reason"]

                until(waits, "it is said what the wake waits for")
            assert not any(cell.done() for cell in cells.values())
        finally:
            hub.start_broker()
        for cell in cells.values():
            assert "42 [42]" in cell.result(PATIENCE)
    assert hub.claims() == dict.fromkeys((saved, in_place), (ANN, "held"))
    assert ann.run_cell(in_place, "print(next(numbers))") == "0"
