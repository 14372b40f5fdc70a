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
from labs import BUILT, NAME, lab_server, write_choice, write_notebook
from pages import Heard, assert_accessible, log_in, open_lab, run_cell, wait_for_kernel
from parts import granted, open_sidebar
from playwright.sync_api import BrowserContext, Locator, Page, expect
from servers import Server
from waiting import PATIENCE

sys.path.append(str(Path(__file__).parents[1] / "brokered"))
from fake_cluster_broker import GIB, TOKEN, FakeClusterBroker, fake_broker
from local_pods import LocalPods

from jupyter_gpu_share.broker.cluster.rules import _PAUSED
from jupyter_gpu_share.engines.user_limits import UserLimit


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

    def __exit__(self, *_: object) -> None:
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
    tmp_path: Path,
    context: BrowserContext,
) -> Iterator[Server]:
    # The page of these sources, whatever is installed beside the tests.
    built = tmp_path / "share" / "labextensions" / NAME
    built.parent.mkdir(parents=True)
    built.symlink_to(BUILT)
    told = {
        "JUPYTER_GPU_SHARE_BROKER": brokered.broker.url,
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "JUPYTER_PATH": str(tmp_path / "share"),
    }
    prefix = ("env", *(f"{name}={value}" for name, value in told.items()))
    folder = tmp_path / "alice"
    with lab_server(folder, simulate="", prefix=prefix) as server:
        log_in(context, server)
        yield server


def opened(page: Page, server: Server, name: str, size: str) -> Locator:
    """The sidebar with a new notebook in front, which asks for a size."""
    write_notebook(server, name, "x = 42; print(x)")
    write_choice(server, name, size)
    open_lab(page, server, name)
    return open_sidebar(page)


def test_a_kernel_holds_gives_back_and_takes_again(
    alice: Server, brokered: Brokered, page: Page, heard: Heard
) -> None:
    panel = opened(page, alice, "one.ipynb", "1/2")
    wait_for_kernel(page)
    expect(run_cell(page, 0)).to_have_text("42")
    expect(panel).to_contain_text("40 GiB ½ of a GPU")
    expect(panel).to_contain_text("A100 · node-1")
    assert_accessible(page, "[aria-label='GPU shares']")
    kernel = str(granted(alice, "one.ipynb")["kernel_id"])
    panel.get_by_role("button", name="Give Back").click()
    expect(panel).to_contain_text("Run a cell to take the share back.")
    assert brokered.broker.kernels[kernel].state == "released"
    panel.get_by_role("button", name="Wake", exact=True).click()
    expect(panel.get_by_role("button", name="Give Back")).to_be_visible()
    assert brokered.broker.kernels[kernel].state == "ready"
    expect(run_cell(page, 0)).to_have_text("42")
    assert heard.unexpected() == []


def test_limits_are_seen_before_one_is_met(
    alice: Server, brokered: Brokered, page: Page, heard: Heard
) -> None:
    brokered.broker.limits = [
        UserLimit("kernels", "user", None, None, 3, 3).to_json(),
        UserLimit("gpus", "user", None, None, 1, 0.75).to_json(),
        UserLimit("gpu_hours", "user", None, 7.0, 40.0, 12.5).to_json(),
        UserLimit("memory_bytes", "group", "a course of a long name", None, GIB, 0).to_json(),
    ]
    open_lab(page, alice)
    panel = open_sidebar(page)
    limits = panel.get_by_role("list", name="My limits")
    expect(limits).to_contain_text("3 of 3 kernels")
    expect(limits).to_contain_text("0.75 of 1 GPU")
    expect(limits).to_contain_text("12.5 of 40 GPU-hours in 7 days")
    expect(limits).to_contain_text("group a course of a long name")
    assert_accessible(page, "[aria-label='GPU shares']")
    panel.evaluate("panel => { panel.style.width = '180px' }")
    assert limits.evaluate("list => list.scrollWidth - list.clientWidth") <= 0, "it is cut off"
    assert heard.unexpected() == []


def test_who_waits_hears_of_all_who_do(
    alice: Server, brokered: Brokered, page: Page, heard: Heard
) -> None:
    brokered.do(brokered.broker.set_room, 0.5)
    panel = opened(page, alice, "two.ipynb", "1")
    expect(panel).to_contain_text("No GPU has room.")
    expect(panel).to_contain_text("Waiting, 1 of 2")
    # The other one is somebody else's: of its kernel alice hears nothing but that.
    expect(panel).to_contain_text("2 kernels wait.")
    assert_accessible(page, "[aria-label='GPU shares']")
    brokered.do(brokered.broker.set_room, 1.0)
    expect(panel).to_contain_text("80 GiB a whole GPU")
    expect(panel.get_by_role("button", name="Give Back")).to_be_visible()
    assert heard.unexpected() == []


@pytest.mark.parametrize(
    "why", ["You hold or wait for 1 GPU, which is the most that you may.", _PAUSED]
)
def test_a_limit_or_a_pause_is_told_in_the_words_of_the_broker(
    alice: Server, brokered: Brokered, page: Page, heard: Heard, why: str
) -> None:
    heard.allow("404|409|500|503")  # the kernel is not there, or has just ended
    brokered.broker.refused = why
    panel = opened(page, alice, "three.ipynb", "1/4")
    expect(panel).to_contain_text("The kernel has no share:")
    expect(panel).to_contain_text(why)
    expect(panel.get_by_role("button", name="Start Without a GPU").first).to_be_visible()
    assert_accessible(page, "[aria-label='GPU shares']")


def test_a_broker_that_is_away_is_told_and_so_is_a_cluster_without_gpus(
    alice: Server, brokered: Brokered, page: Page, heard: Heard
) -> None:
    brokered.broker.machine = lambda: {**FakeClusterBroker.machine(brokered.broker), "gpus": []}  # type: ignore[method-assign]
    open_lab(page, alice)
    panel = open_sidebar(page)
    expect(panel).to_contain_text("There is no GPU now.")
    away = "The JupyterHub does not answer, so nothing new is started."
    brokered.broker.problem = (503, away)
    open_lab(page, alice)
    panel = open_sidebar(page)
    expect(panel).to_contain_text(away)
    assert heard.unexpected() == []
