"""What ``make lab`` and Binder show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import lab_server
from pages import cell, expect_text, log_in, restored, wait_for_kernel
from playwright.sync_api import Page
from servers import Server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is started as they start theirs."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "work" / "binder").mkdir(parents=True)
    shutil.copy(ROOT / "binder" / "demo.ipynb", folder / "work" / "binder")
    with lab_server(folder, prefix=(str(ROOT / "binder" / "start"),)) as server:
        yield server


def test_the_notebook_is_open_on_a_share_of_a_simulated_gpu(demo: Server, page: Page) -> None:
    log_in(page.context, demo)
    page.goto(demo.url)
    restored(page)
    expect_text(cell(page, 0), "A notebook on a share of a GPU")
    wait_for_kernel(page)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    expect_text(page.locator(".jp-OutputArea-output"), "of a simulated GPU")
    status = demo.ok("gpu-share/status")
    assert [gpu["simulated"] for gpu in status["gpus"]] == [True, True]
    (row,) = demo.ok("gpu-share/allocations")
    assert row["share"]["simulated"]
    assert "simulated" in demo.log.read_text()


def test_what_binder_calls_can_be_run() -> None:
    for name in ("postBuild", "start"):
        assert (ROOT / "binder" / name).stat().st_mode & 0o111
    config = json.loads((ROOT / "binder" / "config" / "jupyter_lab_config.json").read_text())
    opened = config["LabApp"]["default_url"].removeprefix("/lab/tree/")
    assert (ROOT / opened).is_file()
