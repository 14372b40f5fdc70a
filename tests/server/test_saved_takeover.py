"""A server that is killed, or ends, leaves saved variables to the next one of its notebooks."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Server, run_server, stop_server, until
from waiting import PATIENCE

pytestmark = pytest.mark.slow

Start = Callable[..., Server]
COMPUTE = "rows = [1, 2]; again = {'rows': rows}"
LOOK = "rows.append(3); print(again['rows'] is rows, rows)"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers of one user that save variables; ``root`` is their folder of notebooks."""
    running: list[Server] = []

    def run(*options: str, root: str = "notebooks", in_place: bool = False) -> Server:
        folder = tmp_path / "alice"
        for old in (folder / "runtime").glob("jpserver-*"):
            old.unlink()
        (tmp_path / root).mkdir(exist_ok=True)
        place = f"--ServerApp.root_dir={tmp_path / root}"
        running.append(run_server(folder, f"--IdlePolicy.in_place={in_place}", place, *options))
        return running[-1]

    yield run
    for server in running:
        if server.process.poll() is None:
            stop_server(server)


def kill(server: Server) -> None:
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(PATIENCE)


def saved(server: Server, size: str = "1/2") -> str:
    """A kernel of a notebook that has computed, and whose variables are saved."""
    return released(server, "snapshot", COMPUTE, size)


def released(server: Server, how: str, code: str, size: str = "1/2") -> str:
    """A kernel of a notebook that has computed, and whose share was given back."""
    session = server.ok(
        "api/sessions",
        "POST",
        {
            "path": "work.ipynb",
            "name": "work.ipynb",
            "type": "notebook",
            "kernel": {"name": "python3"},
        },
    )
    kernel_id: str = session["kernel"]["id"]
    assert server.run_cell(kernel_id, code) == ""
    server.ok(f"gpu-share/allocations/{kernel_id}", "PATCH", {"size": size})
    row = server.ok(f"gpu-share/allocations/{kernel_id}/release", "POST")
    assert (row["state"], row["kept"]["how"]) == ("released", how)
    return kernel_id


def closes(server: Server, path: str) -> None:
    """Close a notebook and end its kernel, if it is open."""
    for session in server.ok("api/sessions"):
        if session["path"] == path:
            server.ok(f"api/sessions/{session['id']}", "DELETE")


def said(server: Server, path: str = "work.ipynb") -> str:
    """What a new kernel of a notebook says above what its first cell prints."""
    closes(server, path)
    return server.run_cell(server.open_notebook(path), "pass")


def takes_over(start: Start, kernel_id: str) -> tuple[Server, Any]:
    """The next server, once it has the kernel; and the kernel's allocation."""
    server = start()
    until(lambda: kernel_id in server.kernels(), "the kernel is taken over")
    return server, server.wait_for(kernel_id, "released")


def left(server: Server) -> list[Path]:
    """What is kept; not the words about what is lost."""
    return [path for path in _files(server) if path.suffix != ".lost"]


def words(server: Server) -> list[Path]:
    return [path for path in _files(server) if path.suffix == ".lost"]


def _files(server: Server) -> list[Path]:
    found = (server.folder.parent / "data" / "gpu-share" / "kept").glob("*/*/*")
    return sorted(path for path in found if path.name not in ("owner", "left"))


def test_the_notebook_goes_on_in_the_next_server(start: Start) -> None:
    first = start()
    kernel_id = saved(first)
    kill(first)
    (note,) = (path for path in left(first) if path.suffix == ".json")
    assert note.stat().st_mode & 0o777 == 0o600
    assert "key" not in json.loads(note.read_text())
    second, row = takes_over(start, kernel_id)
    assert (row["size"], row["share"], row["path"]) == ("1/2", None, "work.ipynb")
    assert row["kept"] == {"how": "snapshot", "lost": []}
    (session,) = until(lambda: second.ok("api/sessions"), "the notebook has its session")
    assert (session["path"], session["kernel"]["id"]) == ("work.ipynb", kernel_id)
    gpu = second.ok("gpu-share/status")["gpus"][0]
    assert gpu["free_bytes"] == gpu["memory_bytes"], "nothing is held for it"
    told = second.run_cell(kernel_id, LOOK)
    assert "True [1, 2, 3]" in told
    assert "variables are back" in told
    second.wait_for(kernel_id, "active")  # the cell is answered before the file goes
    assert left(second) == []


def test_killed_again_before_any_cell_it_is_still_there(start: Start) -> None:
    first = start()
    kernel_id = saved(first)
    kill(first)
    second, _ = takes_over(start, kernel_id)
    second.ok(f"gpu-share/allocations/{kernel_id}", "PATCH", {"size": "1/4"})
    kill(second)
    third, row = takes_over(start, kernel_id)
    assert row["size"] == "1/4"
    assert "True [1, 2, 3]" in third.run_cell(kernel_id, LOOK)


def test_a_restart_of_one_that_was_taken_over_forgets_its_variables(start: Start) -> None:
    first = start()
    kernel_id = saved(first)
    kill(first)
    second, _ = takes_over(start, kernel_id)
    second.ok(f"api/kernels/{kernel_id}/restart", "POST")
    assert "NameError" in second.run_cell(kernel_id, LOOK)
    assert left(second) == []


def test_servers_of_other_notebooks_leave_it_alone(start: Start) -> None:
    first = start()
    kernel_id = saved(first)
    before = left(first)
    kill(first)
    other = start(root="others")
    another = saved(other)  # which sweeps, too
    assert another != kernel_id
    assert set(before) <= set(left(other))
    assert other.kernels() == [another]
    again, _ = takes_over(start, kernel_id)
    assert "True [1, 2, 3]" in again.run_cell(kernel_id, LOOK)


def test_where_the_administrator_wants_none_they_are_swept(start: Start) -> None:
    first = start()
    saved(first)
    before = left(first)
    kill(first)
    second = start("--IdlePolicy.snapshot_lifetime=0")
    until(lambda: left(second) == [], "they are removed")
    assert before
    assert "are removed" in said(second)
    until(lambda: words(second) == [], "the word goes")
    assert said(second) == "", "it is said once"


def test_the_notebook_goes_on_after_a_stop_in_good_order(start: Start) -> None:
    first = start()
    kernel_id = saved(first)
    stop_server(first)
    second, row = takes_over(start, kernel_id)
    assert (row["size"], row["path"], row["kept"]["how"]) == ("1/2", "work.ipynb", "snapshot")
    assert "True [1, 2, 3]" in second.run_cell(kernel_id, LOOK)
    second.wait_for(kernel_id, "active")
    assert left(second) == []


@pytest.mark.parametrize("gpu", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_a_process_has_with_it_is_saved_before_the_server_ends(
    start: Start, number: signal.Signals, gpu: bool
) -> None:
    first = start(in_place=True)
    memory = "from gpu_share_kernel import simulated; m = simulated.allocate('10GiB')"
    kernel_id = released(first, "in-place", f"{COMPUTE}\n{memory if gpu else ''}")
    assert left(first) == []
    stop_server(first, number)
    second, row = takes_over(start, kernel_id)
    assert row["kept"]["how"] == "snapshot"
    assert "True [1, 2, 3]" in second.run_cell(kernel_id, LOOK)


def test_a_stop_that_is_broken_off_saves_it_all_the_same(start: Start) -> None:
    """A second SIGINT ends the server's loop at once, and the kernels as the process ends."""
    first = start(in_place=True)
    kernel_id = released(first, "in-place", COMPUTE)
    first.process.send_signal(signal.SIGINT)
    until(lambda: "Shutting down" in first.log.read_text(), "the stop has begun")
    stop_server(first, signal.SIGINT)
    second, _ = takes_over(start, kernel_id)
    assert "True [1, 2, 3]" in second.run_cell(kernel_id, LOOK)


def test_what_cannot_be_saved_before_the_server_ends_is_logged(start: Start) -> None:
    first = start(in_place=True)
    released(first, "in-place", f"{COMPUTE}; numbers = (n for n in range(3))")
    stop_server(first)
    assert "Of work.ipynb is lost: generator `numbers`" in first.log.read_text()


def test_a_kernel_that_holds_its_share_ends_with_its_server(start: Start) -> None:
    first = start()
    kernel_id = saved(first)
    assert "True [1, 2, 3]" in first.run_cell(kernel_id, LOOK)
    first.wait_for(kernel_id, "active")  # the cell is answered before the file goes
    stop_server(first)
    assert left(first) == []
    assert start().kernels() == []


@pytest.mark.parametrize("how", ["snapshot", "in-place"])
def test_where_the_administrator_wants_none_a_stop_leaves_none(start: Start, how: str) -> None:
    none = "--IdlePolicy.snapshot_lifetime=0"
    first = start(none, in_place=how == "in-place")
    released(first, how, COMPUTE)
    stop_server(first)
    assert left(first) == []
    second = start(none)
    told = second.run_cell(second.open_notebook("work.ipynb"), LOOK)
    assert "none are kept for the next one" in told and "NameError" in told


def test_what_lived_on_in_a_server_that_is_killed_is_said_once(start: Start) -> None:
    first = start(in_place=True)
    released(first, "in-place", COMPUTE)
    (word,) = words(first)
    assert word.stat().st_mode & 0o777 == 0o600
    kill(first)
    second = start(in_place=True)
    assert said(second, "other.ipynb") == ""
    second.open_notebook("work.ipynb")
    closes(second, "work.ipynb")  # and no cell was run
    anew = second.open_notebook("work.ipynb")
    told = second.run_cell(anew, LOOK)
    assert "were held" in told and "Run its cells again." in told and "NameError" in told
    assert second.run_cell(anew, "pass") == ""
    until(lambda: words(second) == [], "the word goes")
    assert said(second) == "", "it is said once"


def test_nothing_is_said_of_what_came_back_or_was_ended(start: Start) -> None:
    first = start(in_place=True)
    wakes = released(first, "in-place", COMPUTE)
    assert "True [1, 2, 3]" in first.run_cell(wakes, LOOK)
    until(lambda: words(first) == [], "the word goes")
    first.ok(f"gpu-share/allocations/{wakes}/release", "POST")
    assert len(words(first)) == 1
    first.ok(f"api/kernels/{wakes}", "DELETE")
    assert words(first) == []
    released(first, "in-place", COMPUTE)
    stop_server(first)
    assert words(first) == [], "its variables are saved"


def test_a_notebook_that_is_renamed_meanwhile_says_it_under_its_new_name(start: Start) -> None:
    first = start(in_place=True)
    released(first, "in-place", COMPUTE)
    (session,) = first.ok("api/sessions")
    first.ok(f"api/sessions/{session['id']}", "PATCH", {"path": "new.ipynb", "name": "new.ipynb"})

    def renamed() -> bool:
        (row,) = first.ok("gpu-share/allocations")
        return bool(row["path"] == "new.ipynb")

    until(renamed, "the kernel has the new path")
    kill(first)
    second = start()
    assert said(second) == ""
    assert "were held" in said(second, "new.ipynb")


def test_what_could_not_be_saved_in_a_stop_is_said_by_the_next_server(start: Start) -> None:
    first = start("--IdlePolicy.snapshot_limit=1000", in_place=True)
    released(first, "in-place", "large = bytes(100_000)")
    stop_server(first)
    assert left(first) == []
    second = start()
    told = said(second)
    assert "could not be saved when its server stopped" in told and "at most 1000 B" in told


def test_what_is_saved_and_cannot_be_trusted_is_said_in_its_notebook(start: Start) -> None:
    first = start()
    saved(first)
    kill(first)
    (kept,) = (path for path in left(first) if path.suffix == ".kept")
    kept.chmod(0o644)
    second = start()
    told = said(second)
    assert "are not loaded" in told and kept.name in told and "open to others" in told
    assert kept.exists()
    assert said(second) == "", "it is said once"


def test_what_cannot_be_begun_again_is_said_in_its_notebook(start: Start) -> None:
    """Its size is no longer allowed, say."""
    first = start()
    kernel_id = saved(first)
    kill(first)
    for choice in (first.folder.parent / "data" / "gpu-share" / "sizes").rglob("*"):
        choice.unlink()  # the new kernel is to have the usual size
    second = start("--SizePolicy.max_total=1/4")
    until(lambda: "could not be taken over" in second.log.read_text(), "it was tried")
    told = said(second)
    assert "were not taken over" in told and "1/4" in told
    kill(second)
    third, _ = takes_over(start, kernel_id)
    assert "True [1, 2, 3]" in third.run_cell(kernel_id, LOOK)
