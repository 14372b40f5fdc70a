"""Where the extension's parts are on a page, as a person or a screen reader finds them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pages import in_time
from playwright.sync_api import Locator, Page
from servers import Server
from waiting import PATIENCE


def sidebar(page: Page) -> Locator:
    """The panel at the right."""
    return page.get_by_role("region", name="GPU shares", exact=True)


def open_sidebar(page: Page) -> Locator:
    """Show the panel at the right."""
    execute(page, "gpu-share:show")
    sidebar(page).wait_for()
    return sidebar(page)


def rows(page: Page) -> Locator:
    """The kernels in its list."""
    return sidebar(page).get_by_role("list", name="My kernels").get_by_role("listitem")


def toolbar(page: Page) -> Locator:
    """The share in the toolbar of the notebook in front."""
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-GpuShare-toolbar button")


def dialog(page: Page) -> Locator:
    """The dialog that is open."""
    return page.get_by_role("dialog")


def accept(page: Page) -> None:
    """Press the button that goes on."""
    dialog(page).locator(".jp-mod-accept").click()


def execute(page: Page, command: str, **args: Any) -> None:
    """Run a command, without waiting for what it asks."""
    page.evaluate(
        "([id, args]) => { window.jupyterapp.commands.execute(id, args) }", [command, args]
    )


def new_notebook(page: Page) -> str:
    """Make a notebook with a kernel as the launcher does; its path."""
    source = """
    window.jupyterapp.commands.execute('notebook:create-new', {kernelName: 'python3'})
      .then(panel => panel.context.path)
    """
    return str(in_time(page, source))


def choose(page: Page, size: str) -> None:
    """Pick Python and a size in the Select Kernel dialog of the notebook or console in front."""
    execute(page, "notebook:change-kernel")
    pick(page, size)


def pick(page: Page, size: str) -> None:
    """The same in the dialog that is open."""
    dialog(page).locator("select").first.select_option(label="Python 3 (ipykernel)")
    field = dialog(page).get_by_label("Share of a GPU")
    if size in field.locator("option").evaluate_all("all => all.map(one => one.value)"):
        field.select_option(size)
    else:
        field.select_option("other")
        dialog(page).get_by_label("Other size").fill(size)
    accept(page)


def allocation(server: Server, path: str) -> dict[str, Any] | None:
    """The newest allocation of a notebook or console, as the server has it."""
    rows: list[dict[str, Any]] = server.ok("gpu-share/allocations")
    return next((row for row in reversed(rows) if row["path"] == path), None)


def granted(server: Server, path: str) -> dict[str, Any]:
    """Wait until a notebook's kernel holds a share; its allocation."""

    def holds() -> dict[str, Any] | None:
        row = allocation(server, path)
        return row if row and row["state"] in ("active", "idle") else None

    found: dict[str, Any] = until(holds, f"{path} holds a share")
    return found


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait until ``holds()`` is true and return its value; fail with ``what`` if it never is."""
    end = time.monotonic() + PATIENCE
    while not (result := holds()):
        assert time.monotonic() < end, f"never happened in {PATIENCE} s: {what}"
        time.sleep(0.05)
    return result
