"""JupyterLab and Notebook 7 start with the extension, and with each of its parts disabled."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from labs import BUILT, NAME, disable, write_notebook
from pages import (
    assert_accessible,
    expect_text,
    open_lab,
    open_notebook7,
    plugins,
    run_cell,
    wait_for_kernel,
)
from playwright.sync_api import Page
from servers import Server
from waiting import PATIENCE


def plugin_ids() -> list[str]:
    """The ids of the extension's plugins: each has settings, and so a schema in what is built."""
    names = [path.stem for path in BUILT.glob(f"schemas/{NAME}/*.json")]
    found = sorted(f"{NAME}:{name}" for name in names if name != "package")
    return found or ["the extension is not built"]


def ours(page: Page) -> set[str]:
    return {plugin for plugin in plugins(page) if plugin.startswith(f"{NAME}:")}


def test_the_extension_is_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyterlab.labextensions", "list", "--verbose"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    said = re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)
    version = json.loads((BUILT / "package.json").read_text())["version"]
    assert f"{NAME} v{version} enabled OK (python, {NAME})" in said


def test_lab_starts(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "print(6 * 7)")
    open_lab(page, lab, "one.ipynb")
    # Of which the tests below disable each.
    assert ours(page) == set(plugin_ids())
    wait_for_kernel(page)
    expect_text(run_cell(page, 0), "42")


@pytest.mark.parametrize("plugin", plugin_ids())
def test_lab_works_without(lab: Server, page: Page, plugin: str) -> None:
    write_notebook(lab, "one.ipynb", "print(6 * 7)")
    disable(lab, {plugin: True})
    open_lab(page, lab, "one.ipynb")
    assert plugin not in ours(page)
    wait_for_kernel(page)
    expect_text(run_cell(page, 0), "42")


def test_lab_works_without_all(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "print(6 * 7)")
    disable(lab, {NAME: True})
    open_lab(page, lab, "one.ipynb")
    assert not ours(page)
    wait_for_kernel(page)
    expect_text(run_cell(page, 0), "42")


def test_notebook7_starts(notebook7: Server, page: Page) -> None:
    write_notebook(notebook7, "one.ipynb", "print(6 * 7)")
    open_notebook7(page, notebook7)
    open_notebook7(page, notebook7, "one.ipynb")
    assert ours(page)
    wait_for_kernel(page)
    expect_text(run_cell(page, 0), "42")


def test_the_check_for_accessibility_finds_something(lab: Server, page: Page) -> None:
    open_lab(page, lab)
    page.evaluate(
        "() => { document.body.insertAdjacentHTML('beforeend',"
        " '<div id=bad><img src=data:,><button></button></div>'"
        " + '<div id=good><button>Name</button></div>') }"
    )
    assert_accessible(page, "#good")
    with pytest.raises(AssertionError, match=r"(?s)button-name \(critical\).*#bad > button"):
        assert_accessible(page, "#bad")
