"""The page of JupyterLab in a server of a Hub whose kernels a cluster's broker makes.

The broker is a fake, which tells what a real one would; kernels run.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import lab_server, write_choice, write_notebook
from pages import Heard, assert_accessible, log_in, open_lab, run_cell, wait_for_kernel
from parts import granted, open_sidebar, sidebar, toolbar
from playwright.sync_api import BrowserContext, Page, expect
from servers import Server
from waiting import PATIENCE

sys.path.append(str(Path(__file__).parents[1] / "brokered"))
from fake_cluster_broker import TOKEN, FakeClusterBroker, fake_broker
from local_pods import LocalPods


class Brokered:
    """The fake and its pods in a thread, as Playwright has this one's event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._over = folder, asyncio.Event()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="broker")
        self.broker: FakeClusterBroker

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        async with fake_broker() as self.broker:
            self.broker.placed = "starting"
            pods = LocalPods(self.broker, self._folder)
            self._ready.set()
            await self._over.wait()
            await pods.close()

    def __enter__(self) -> FakeClusterBroker:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self.broker

    def __exit__(self, *_: Any) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE)

    def do(self, work: Callable[..., Any], *arguments: Any, **more: Any) -> None:
        """Do something where the fake runs."""

        async def done() -> None:
            work(*arguments, **more)

        pending: Awaitable[None] = done()
        asyncio.run_coroutine_threadsafe(pending, self._loop).result(PATIENCE)  # type: ignore[arg-type]


@pytest.fixture
def brokered(tmp_path: Path) -> Iterator[Brokered]:
    made = Brokered(tmp_path / "pods")
    with made:
        yield made


@pytest.fixture
def alice(
    brokered: Brokered,
    new_user: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    context: BrowserContext,
) -> Iterator[Server]:
    monkeypatch.setenv("JUPYTER_GPU_SHARE_BROKER", brokered.broker.url)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", TOKEN)
    with lab_server(tmp_path / "alice", simulate="", environment=new_user) as server:
        log_in(context, server)
        yield server


def test_what_the_sidebar_says_of_a_cluster(
    alice: Server, brokered: Brokered, page: Page, heard: Heard
) -> None:
    broker = brokered.broker
    write_notebook(alice, "one.ipynb", "x = 42; print(x)")
    write_choice(alice, "one.ipynb", "1/2")
    open_lab(page, alice, "one.ipynb")
    wait_for_kernel(page)
    panel = open_sidebar(page)
    expect(run_cell(page, 0)).to_have_text("42")
    expect(panel).to_contain_text("40 GiB ½ of a GPU")
    expect(panel).to_contain_text("node-1")
    print("HELD", panel.inner_text())
    print("STATUS", alice.ok("gpu-share/status"))
    kernel = str(granted(alice, "one.ipynb")["kernel_id"])
    assert broker.kernels[kernel].size == "1/2"
    assert_accessible(page, "[aria-label='GPU shares']")

    # A second one waits for its turn, in the broker's words.
    write_notebook(alice, "two.ipynb", "1")
    write_choice(alice, "two.ipynb", "1")
    open_lab(page, alice, "two.ipynb")
    panel = open_sidebar(page)
    expect(panel).to_contain_text("No GPU has room.")
    print("WAITS", panel.inner_text())
    print("TOOLBAR", toolbar(page).inner_text())
    # A limit refuses a third one in the broker's words.
    broker.refused = "You may hold 1 GPU, and hold or wait for 1.5."
    write_notebook(alice, "three.ipynb", "1")
    write_choice(alice, "three.ipynb", "1/4")
    open_lab(page, alice, "three.ipynb")
    panel = open_sidebar(page)
    expect(panel).to_contain_text(broker.refused)
    print("REFUSED", panel.inner_text())
    page.screenshot(path="/tmp/w/pages/build/refused.png")
    broker.refused = (
        "The administrator gives out no new shares for now. What runs goes on; try again later, or "
        "start without a GPU."
    )
    write_notebook(alice, "four.ipynb", "1")
    write_choice(alice, "four.ipynb", "1/4")
    open_lab(page, alice, "four.ipynb")
    panel = open_sidebar(page)
    expect(panel).to_contain_text(broker.refused)
    print("PAUSED", panel.inner_text())
    page.screenshot(path="/tmp/w/pages/build/paused.png")
    assert heard.unexpected() == []
