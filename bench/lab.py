"""What the extension costs JupyterLab's start: bytes of script, and time."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from jupyter_core.paths import jupyter_path

from .rows import Row, plus

sys.path += [str(Path(__file__).parents[1] / "tests" / part) for part in ("", "browser")]

from chromium import running_chromium
from labs import NAME, allocation_of, lab_server
from pages import PATIENCE_MS, in_time, log_in, open_lab
from playwright.sync_api import Browser, Page, Response
from servers import Server

__all__ = ["allocation_of", "rows", "running_lab"]

ROUNDS = 20
_BYTES = 150_000
_SLOWER = 100.0

#: Notes when Lab has started: as the application says, in milliseconds since the navigation.
_WATCH = """
Object.defineProperty(window, 'jupyterapp', {
  configurable: true,
  set(app) {
    Object.defineProperty(window, 'jupyterapp', { value: app });
    window.labStarted = app.restored.then(() => performance.now());
  }
});
"""


def rows() -> list[Row]:
    """Bytes of our scripts at Lab's start, and its time with and without the extension."""
    with ExitStack() as stack:
        ours, peer = (stack.enter_context(_server(with_it)) for with_it in (True, False))
        browser = stack.enter_context(running_chromium())
        loaded = _start(browser, ours)[1]
        assert loaded, "the extension was not loaded"
        assert not _start(browser, peer)[1], "the extension was loaded where it should not be"
        taken: dict[str, list[float]] = {ours.url: [], peer.url: []}
        for number in range(ROUNDS):
            # By turns, each first in half of them.
            for server in (ours, peer) if number % 2 else (peer, ours):
                taken[server.url].append(_start(browser, server)[0])
    with_it, without = median(taken[ours.url]), median(taken[peer.url])
    limit, goal = plus(_SLOWER, without, "ms")
    size = sum(loaded.values())
    return [
        Row("our script at Lab's start", "kB", size / 1000, None, _BYTES / 1000, "at most 150 kB"),
        Row("start of JupyterLab", "ms", with_it, without, limit, goal),
    ]


@contextmanager
def running_lab(folder: Path) -> Iterator[tuple[Server, Page]]:
    """A server, and a page on which Lab with the extension has started."""
    with ExitStack() as stack:
        server = stack.enter_context(lab_server(folder))
        browser = stack.enter_context(running_chromium())
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        stack.callback(context.close)
        context.set_default_timeout(PATIENCE_MS)
        log_in(context, server)
        yield server, open_lab(context.new_page(), server)


@contextmanager
def _server(with_it: bool) -> Iterator[Server]:
    """Lab with all extensions that are installed, or with all but ours."""
    with tempfile.TemporaryDirectory(prefix="gpu-share-bench-") as name:
        folder, arguments = Path(name), []
        if not with_it:
            others = folder / "labextensions"
            _link_others(others)
            arguments = [
                f"--LabServerApp.labextensions_path={others}",
                "--ServerApp.jpserver_extensions={'jupyter_gpu_share': False}",
            ]
        with lab_server(folder, *arguments) as server:
            yield server


def _link_others(others: Path) -> None:
    others.mkdir()
    for place in reversed(jupyter_path("labextensions")):
        for path in Path(place).glob("*"):
            if path.name != NAME:
                (others / path.name).unlink(missing_ok=True)
                (others / path.name).symlink_to(path)


def _start(browser: Browser, server: Server) -> tuple[float, dict[str, int]]:
    """Milliseconds that Lab takes with nothing in the browser's cache; our scripts and sizes."""
    sizes: dict[str, int] = {}
    answers: list[Response] = []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    try:
        log_in(context, server)
        page = context.new_page()
        page.add_init_script(_WATCH)
        page.on("response", lambda answer: answers.append(answer))
        page.goto(f"{server.url}lab/workspaces/bench?reset", timeout=PATIENCE_MS)
        page.wait_for_function("() => window.labStarted", timeout=PATIENCE_MS)
        taken = float(in_time(page, "window.labStarted"))
        page.wait_for_load_state("networkidle", timeout=PATIENCE_MS)
        for answer in answers:
            if f"/extensions/{NAME}/" in answer.url and answer.request.resource_type == "script":
                sizes[answer.url.rpartition("/")[2].partition("?")[0]] = len(answer.body())
    finally:
        context.close()
    return taken, sizes
