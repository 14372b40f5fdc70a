"""The first minutes of somebody who types what the README says, and sets nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed import readme_lines
from pages import cell, expect_text, log_in, restored, run_cell
from parts import allocation, granted, rows, sidebar, toolbar
from playwright.sync_api import BrowserContext, Page, expect
from servers import Server, run_as_typed, stop_server

GIB = 2**30
#: Once the page is there, before its scripts run.
_EXPOSED = """
document.addEventListener('readystatechange', () => {
  const data = document.getElementById('jupyter-config-data');
  if (document.readyState === 'interactive' && data) {
    data.textContent = JSON.stringify(
      {...JSON.parse(data.textContent), exposeAppInBrowser: true});
  }
});
"""


@pytest.fixture(scope="module")
def typed_lab(new_user: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """JupyterLab by the README's line for machines without a GPU."""
    (line,) = (one for one in readme_lines() if re.fullmatch(r"JUPYTER_\S+ jupyter lab", one))
    assert "jupyter lab" in readme_lines()
    server = run_as_typed(line, tmp_path_factory.mktemp("typed"), new_user)
    yield server
    stop_server(server)


def open_as_they_do(context: BrowserContext, page: Page, server: Server) -> None:
    """Open the server's page, and answer what Lab asks everybody: no news, thank you.

    What the server sends is as it is; in this browser alone tests reach the application.
    """
    context.add_init_script(_EXPOSED)
    # Whether there is a newer Lab is asked of its makers: the server would look for them.
    context.route("**/lab/api/update*", lambda route: route.fulfill(json={"notification": None}))
    log_in(context, server)
    page.goto(f"{server.url}lab")
    restored(page)
    page.locator(".Toastify__toast").get_by_role("button", name="No", exact=True).click()
    expect(page.locator(".Toastify__toast")).to_have_count(0)


def write_cell(page: Page, number: int, code: str) -> None:
    """Type into a cell."""
    cell(page, number).locator(".cm-content").click()
    page.keyboard.type(code)


def test_from_the_first_card_to_a_share_that_comes_back(
    typed_lab: Server, context: BrowserContext, page: Page
) -> None:
    open_as_they_do(context, page, typed_lab)
    page.locator(".jp-LauncherCard[data-category='Notebook']").first.click()
    expect(toolbar(page)).to_contain_text("GPU ¼ · 20 GiB")
    row = granted(typed_lab, "Untitled.ipynb")
    assert (row["kernel_name"], row["size"]) == ("python3", "1/4")
    assert row["share"]["memory_bytes"] == 20 * GIB

    # Picked for a kernel of the same kind, in the menu that the README names.
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Change Kernel…").click()
    dialog = page.get_by_role("dialog")
    dialog.locator("select").first.select_option(label="Python 3 (ipykernel)")
    dialog.get_by_label("Share of a GPU").select_option("1/2")
    dialog.get_by_role("button", name="Select Kernel").click()
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    picked = granted(typed_lab, "Untitled.ipynb")
    assert (picked["size"], picked["share"]["memory_bytes"]) == ("1/2", 40 * GIB)
    assert picked["kernel_id"] != row["kernel_id"]
    write_cell(page, 0, "import os; os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES']")
    expect_text(run_cell(page, 0), str(40 * GIB))

    page.get_by_role("tab", name="GPU Shares").click()
    panel = sidebar(page)
    expect(panel).to_contain_text("40 GiB ½ of a GPU")
    expect(rows(page)).to_have_count(1)
    write_cell(page, 1, "kept = object(); place = id(kept)")
    run_cell(page, 1)
    panel.get_by_role("button", name="Give Back").click()
    expect(panel).to_contain_text("Run a cell to take the share back. Variables are kept.")
    expect(toolbar(page)).to_contain_text("given back")
    given = allocation(typed_lab, "Untitled.ipynb")
    assert given is not None and given["share"] is None
    write_cell(page, 2, "id(kept) == place")
    expect_text(run_cell(page, 2), "True")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    assert granted(typed_lab, "Untitled.ipynb")["size"] == "1/2"
