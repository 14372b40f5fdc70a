"""The pictures of README and docs, from the real page: ``make pictures`` keeps them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from labs import write_notebook
from pages import open_lab, run_cell, wait_for_kernel
from parts import choose, open_sidebar, toolbar
from playwright.sync_api import Page, expect
from servers import Server

ROOT = Path(__file__).parents[2]
#: Where pictures go: into the docs only when that is asked for.
FOLDER = ROOT / ("docs/images" if os.environ.get("JUPYTER_GPU_SHARE_PICTURES") else "build/browser")

CELL = """\
from gpu_share_kernel import simulated

held = simulated.allocate("14GiB")
print(f"holds {simulated.memory()[0] / 2**30:.0f} GiB")"""


@pytest.fixture(scope="module")
def simulate() -> str:
    return "2xA100-80GB"


def test_a_notebook_with_its_share_and_the_sidebar(lab: Server, page: Page) -> None:
    write_notebook(lab, "train.ipynb", CELL)
    write_notebook(lab, "eda.ipynb", "1")
    for size in ("1/2", "3/4"):
        lab.start_kernel(size)
    open_lab(page, lab, "eda.ipynb")
    wait_for_kernel(page)
    choose(page, "1/2")
    expect(toolbar(page)).to_contain_text("½")
    page.evaluate("() => { window.jupyterapp.commands.execute('filebrowser:hide-main') }")
    open_lab(page, lab, "train.ipynb")
    wait_for_kernel(page)
    panel = open_sidebar(page)
    run_cell(page, 0)
    expect(panel).to_contain_text("14 of 20 GiB")
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture = FOLDER / "lab.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size > 10_000
