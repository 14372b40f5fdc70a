"""The path of a kernel is where its notebook is now, whoever renames or moves it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import nbformat
import pytest
from servers import Server, run_server, stop_server, until
from waiting import PATIENCE

NOTEBOOK = nbformat.writes(nbformat.v4.new_notebook())


def open_notebook(server: Server, path: str, kernel_id: str | None = None) -> Any:
    """Write a notebook and open it, as JupyterLab does; its session."""
    file = server.folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(NOTEBOOK)
    kernel = {"id": kernel_id} if kernel_id else {"name": "python3"}
    body = {"path": path, "name": file.name, "type": "notebook", "kernel": kernel}
    return server.ok("api/sessions", "POST", body)


def rename(server: Server, old: str, new: str) -> None:
    server.ok(f"api/contents/{old}", "PATCH", {"path": new})


def tell(server: Server, session: Any, **changes: Any) -> None:
    server.ok(f"api/sessions/{session['id']}", "PATCH", changes)


def shown(server: Server, session: Any) -> Any:
    return server.ok(f"gpu-share/allocations/{session['kernel']['id']}")["path"]


def becomes(server: Server, session: Any, path: str) -> None:
    until(lambda: shown(server, session) == path, f"{path} is shown: {shown(server, session)}")


@pytest.fixture
def tidy(clean: Server) -> Iterator[Server]:
    """The server, with no notebooks before and after the test either."""
    yield clean
    for path in sorted(clean.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_notebook_that_a_page_renames(tidy: Server) -> None:
    session = open_notebook(tidy, "Untitled.ipynb")
    assert shown(tidy, session) == "Untitled.ipynb"
    rename(tidy, "Untitled.ipynb", "analysis.ipynb")
    tell(tidy, session, path="analysis.ipynb")
    tell(tidy, session, name="analysis.ipynb")
    becomes(tidy, session, "analysis.ipynb")


def test_the_session_alone_is_told(tidy: Server) -> None:
    session = open_notebook(tidy, "a.ipynb")
    tell(tidy, session, path="elsewhere/b.ipynb")
    becomes(tidy, session, "elsewhere/b.ipynb")
    tell(tidy, session, path="a.ipynb")
    becomes(tidy, session, "a.ipynb")


def test_the_folder_of_a_notebook_that_no_page_shows(tidy: Server) -> None:
    inside = open_notebook(tidy, "one/deep/a.ipynb")
    beside = open_notebook(tidy, "one-more/a.ipynb")
    rename(tidy, "one", "two")
    becomes(tidy, inside, "two/deep/a.ipynb")
    assert shown(tidy, beside) == "one-more/a.ipynb"
    # Its session still has the old path, and says so when something else of it is written.
    tell(tidy, inside, type="notebook")
    rename(tidy, "two", "three")
    becomes(tidy, inside, "three/deep/a.ipynb")
    # A page that comes later tells the session.
    tell(tidy, inside, path="three/deep/b.ipynb")
    becomes(tidy, inside, "three/deep/b.ipynb")


def test_a_restart_keeps_the_new_path(tidy: Server) -> None:
    session = open_notebook(tidy, "one/a.ipynb")
    (tidy.folder / "two").mkdir()
    rename(tidy, "one/a.ipynb", "two/a.ipynb")
    becomes(tidy, session, "two/a.ipynb")
    tidy.ok(f"api/kernels/{session['kernel']['id']}/restart", "POST", {})
    code = "import os; print(os.environ['JPY_SESSION_NAME'])"
    told = tidy.run_cell(session["kernel"]["id"], code)
    assert told == str(tidy.folder / "two" / "a.ipynb")
    assert shown(tidy, session) == "two/a.ipynb"


def test_a_kernel_of_two_notebooks_is_known_by_the_first(tidy: Server) -> None:
    first = open_notebook(tidy, "first.ipynb")
    second = open_notebook(tidy, "second.ipynb", first["kernel"]["id"])
    tell(tidy, second, path="renamed.ipynb")
    tell(tidy, first, path="analysis.ipynb")
    becomes(tidy, first, "analysis.ipynb")
    rename(tidy, "second.ipynb", "third.ipynb")
    rename(tidy, "first.ipynb", "fourth.ipynb")
    tell(tidy, first, path="last.ipynb")
    becomes(tidy, first, "last.ipynb")


def test_a_kernel_that_was_started_apart_from_its_session(tidy: Server) -> None:
    kernel_id = str(uuid4())
    wanted = {"size": "1/4", "path": "one/a.ipynb"}
    tidy.ok(f"gpu-share/requests/{kernel_id}", "PUT", wanted)
    tidy.start_kernel(kernel_id=kernel_id)
    (tidy.folder / "one").mkdir()
    rename(tidy, "one", "two")
    kernel = {"kernel": {"id": kernel_id}}
    becomes(tidy, kernel, "two/a.ipynb")
    # The page made its session before it knew.
    session = open_notebook(tidy, "one/a.ipynb", kernel_id)
    assert shown(tidy, session) == "two/a.ipynb"
    tell(tidy, session, path="b.ipynb")
    becomes(tidy, session, "b.ipynb")


def test_a_kernel_without_a_notebook_gets_one(tidy: Server) -> None:
    kernel_id = tidy.start_kernel("1/4")
    assert shown(tidy, {"kernel": {"id": kernel_id}}) is None
    session = open_notebook(tidy, "a.ipynb", kernel_id)
    becomes(tidy, session, "a.ipynb")


def test_a_console_is_known_by_its_name(tidy: Server) -> None:
    (tidy.folder / "one").mkdir()
    body = {"path": "one/console-1-8c1", "name": "Console 1", "type": "console"}
    session = tidy.ok("api/sessions", "POST", {**body, "kernel": {"name": "python3"}})
    assert shown(tidy, session) == "one/Console 1"
    tell(tidy, session, name="Console 2")
    becomes(tidy, session, "one/Console 2")
    rename(tidy, "one", "two")
    becomes(tidy, session, "two/Console 2")


@pytest.mark.parametrize("path", ["../a.ipynb", "a\nb.ipynb", "x" * 5000, ""])
def test_what_is_no_path_is_not_shown(tidy: Server, path: str) -> None:
    session, other = open_notebook(tidy, "a.ipynb"), open_notebook(tidy, "b.ipynb")
    tell(tidy, session, path=path)
    tell(tidy, other, path="c.ipynb")
    becomes(tidy, other, "c.ipynb")  # and so what was told before has been followed
    assert shown(tidy, session) == "a.ipynb"
    tell(tidy, session, path="d.ipynb")
    becomes(tidy, session, "d.ipynb")
    assert "could not be seen" not in tidy.log.read_text()


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_next_server_opens_the_notebook_under_its_new_path(tmp_path: Path, when: str) -> None:
    options = ("--IdlePolicy.in_place=False", "--IdlePolicy.rule=never")
    first = run_server(tmp_path, *options)
    try:
        session = open_notebook(first, "Untitled.ipynb")
        kernel_id = session["kernel"]["id"]
        assert first.run_cell(kernel_id, "x = 41") == ""
        if when == "before":
            rename(first, "Untitled.ipynb", "analysis.ipynb")
            becomes(first, session, "analysis.ipynb")
        row = first.ok(f"gpu-share/allocations/{kernel_id}/release", "POST")
        assert (row["state"], row["kept"]["how"]) == ("released", "snapshot")
        if when == "after":
            rename(first, "Untitled.ipynb", "analysis.ipynb")
            becomes(first, session, "analysis.ipynb")
    finally:
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait(PATIENCE)
    for old in (tmp_path / "runtime").glob("jpserver-*"):
        old.unlink()
    second = run_server(tmp_path, *options)
    try:
        (session,) = until(lambda: second.ok("api/sessions"), "the notebook has its session")
        assert (session["path"], session["kernel"]["id"]) == ("analysis.ipynb", kernel_id)
        assert shown(second, session) == "analysis.ipynb"
        assert second.run_cell(kernel_id, "print(x + 1)").endswith("42")
    finally:
        stop_server(second)
