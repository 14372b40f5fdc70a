"""Every story by the keyboard alone: the focus goes on from where it was, and never to nowhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from labs import write_choice, write_notebook
from pages import Heard, cell, expect_text, in_time, open_lab, wait_for_kernel
from parts import dialog, execute, granted, open_sidebar, rows, sidebar, toolbar, until
from playwright.sync_api import Locator, Page, expect
from servers import Server

#: Notes whenever nothing has the focus, and it is not given on within so many frames: ten seconds,
#: as what gives it on may wait for an answer of the server.
_WATCH = """
() => {
  window.lost = [];
  window.watching = 0;
  const look = (left, target) => {
    if (document.activeElement === document.body && left > 0) {
      requestAnimationFrame(() => look(left - 1, target));
      return;
    }
    window.watching -= 1;
    if (left === 0) {
      window.lost.push(target.outerHTML.slice(0, 200));
    }
  };
  document.addEventListener('focusout', event => {
    window.watching += 1;
    requestAnimationFrame(() => look(600, event.target));
  });
}
"""
#: Once it is known of each.
_SETTLED = """
new Promise(resolve => {
  const look = () => window.watching > 0
    ? requestAnimationFrame(look)
    : resolve({ lost: window.lost, body: document.activeElement === document.body });
  look();
})
"""


@pytest.fixture
def watched(page: Page) -> Iterator[Page]:
    """The page, whose focus is watched from ``watch`` on."""
    yield page
    found = in_time(page, _SETTLED)
    assert found == {"lost": [], "body": False}


def watch(page: Page) -> None:
    """From now on the focus may not get lost."""
    page.evaluate(_WATCH)


def open_one(lab: Server, page: Page) -> None:
    """Open a notebook with the focus in its cell."""
    write_notebook(lab, "one.ipynb", "print(6 * 7)")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    granted(lab, "one.ipynb")
    expect(toolbar(page)).to_contain_text("GPU ¼ · 20 GiB")
    into_cell(page)
    watch(page)


def into_cell(page: Page) -> None:
    """Give the cell the focus, as Lab has it after a notebook was opened by a click."""
    cell(page, 0).locator(".cm-content").focus()
    expect(cell(page, 0).locator(".cm-content")).to_be_focused()


def in_notebook(page: Page) -> None:
    """Wait until the notebook in front has the focus again."""
    expect(page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook :focus")).to_have_count(
        1
    )


def palette(page: Page, label: str) -> None:
    """Run a command by its label."""
    page.keyboard.press("Control+Shift+C")
    box = page.locator(".lm-CommandPalette-input").last
    expect(box).to_be_focused()
    page.keyboard.type(label)
    item = page.locator(".lm-CommandPalette-item.lm-mod-active")
    expect(item).to_contain_text(label)
    page.keyboard.press("Enter")
    expect(box).to_be_hidden()


def tab_to(page: Page, goal: Locator, key: str = "Tab", most: int = 60) -> None:
    """Press a key until an element has the focus."""
    goal.wait_for()
    for _ in range(most):
        if goal.evaluate("one => one === document.activeElement"):
            return
        page.keyboard.press(key)
    expect(goal).to_be_focused()


def into_sidebar(page: Page) -> Locator:
    """Show the sidebar by the keyboard; the focus is in it."""
    palette(page, "Show GPU Shares")
    expect(sidebar(page)).to_be_focused()
    return sidebar(page)


def button(page: Page, name: str) -> Locator:
    return sidebar(page).get_by_role("button", name=name, exact=True)


def pick_larger(page: Page) -> None:
    """Pick the next size of the dialog's field, which has the focus."""
    expect(dialog(page)).not_to_contain_text("Asking for the sizes…")
    page.keyboard.press("ArrowDown")


def test_the_launcher(lab: Server, watched: Page) -> None:
    page = watched
    open_lab(page, lab)
    card = page.locator(".jp-LauncherCard[data-category='Notebook']").first
    card.wait_for()
    page.locator("#jp-main-dock-panel").focus()
    tab_to(page, card)
    page.keyboard.press("Enter")
    expect(toolbar(page)).to_contain_text("GPU ¼ · 20 GiB")
    wait_for_kernel(page)
    in_notebook(page)
    watch(page)


def test_the_size_in_select_kernel(lab: Server, watched: Page) -> None:
    page = watched
    open_one(lab, page)
    palette(page, "Change Kernel…")
    field = dialog(page).get_by_label("Share of a GPU")
    expect(field).to_be_visible()
    tab_to(page, field)
    pick_larger(page)
    expect(field).to_have_value("1/2")
    page.keyboard.press("Enter")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    in_notebook(page)


def test_the_menu_of_the_toolbar(lab: Server, watched: Page) -> None:
    page = watched
    open_one(lab, page)
    page.keyboard.press("Escape")  # to the command mode of the cell
    tab_to(page, page.locator(".jp-NotebookPanel-toolbar [tabindex='0']").first, "Shift+Tab")
    tab_to(page, toolbar(page), "ArrowRight")
    page.keyboard.press("Enter")
    item = page.get_by_role("menuitem", name="½ · 40 GiB")
    item.wait_for()
    for _ in range(20):
        if "lm-mod-active" in (item.get_attribute("class") or ""):
            break
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    expect(toolbar(page)).to_be_focused()
    # A dialog from it comes back to it, too.
    page.keyboard.press("Enter")
    page.get_by_role("menuitem", name="Change GPU Share…").wait_for()
    page.keyboard.type("c")
    page.keyboard.press("Enter") if page.get_by_role("menu").count() else None
    expect(dialog(page).get_by_label("Share of a GPU")).to_be_visible()
    page.keyboard.press("Escape")
    expect(toolbar(page)).to_be_focused()


def test_keep_release_and_wake(lab: Server, watched: Page) -> None:
    page = watched
    open_one(lab, page)
    page.keyboard.press("Shift+Enter")
    expect_text(cell(page, 0).locator(".jp-OutputArea-output"), "42")
    into_sidebar(page)
    keep = sidebar(page).get_by_role("button", name="Keep the share for a time")
    tab_to(page, keep)
    page.keyboard.press("Enter")
    page.get_by_role("menuitem", name="Keep for 1 Hour").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(sidebar(page)).to_contain_text("Kept until")
    expect(keep).to_be_focused()
    tab_to(page, button(page, "Give Back"))
    page.keyboard.press("Enter")
    button(page, "Wake").wait_for()
    expect(sidebar(page).locator(".jp-GpuShare-buttons button:focus")).to_have_count(1)
    tab_to(page, button(page, "Wake"), "Shift+Tab")
    page.keyboard.press("Enter")
    expect(toolbar(page)).to_contain_text("GPU ¼ · 20 GiB")
    expect(sidebar(page).locator("button:focus")).to_have_count(1)


def test_a_size_in_the_sidebar(lab: Server, watched: Page) -> None:
    page = watched
    open_one(lab, page)
    into_sidebar(page)
    tab_to(page, button(page, "Change…"))
    page.keyboard.press("Enter")
    field = dialog(page).get_by_label("Share of a GPU")
    expect(field).to_be_focused()
    pick_larger(page)
    page.keyboard.press("Enter")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    expect(button(page, "Change…")).to_be_focused()


def test_start_without_a_gpu(lab: Server, watched: Page, heard: Heard) -> None:
    page = watched
    heard.allow("500|503|Error")
    lab.start_kernel("3/4")
    write_notebook(lab, "waits.ipynb", "1")
    write_choice(lab, "waits.ipynb", "1/2")
    open_lab(page, lab, "waits.ipynb")
    expect(toolbar(page)).to_contain_text("waiting")
    into_cell(page)
    watch(page)
    into_sidebar(page)
    tab_to(page, button(page, "Start Without a GPU"))
    page.keyboard.press("Enter")
    expect(toolbar(page)).to_contain_text("No GPU")
    wait_for_kernel(page)
    expect(sidebar(page).locator("button:focus")).to_have_count(1)


def test_the_list(lab: Server, watched: Page) -> None:
    page = watched
    lab.start_kernel("1/4")
    open_one(lab, page)
    into_sidebar(page)
    name = rows(page).get_by_role("button", name="one.ipynb", exact=True)
    tab_to(page, rows(page).locator(".jp-GpuShare-name[tabindex='0']"))
    page.keyboard.press("End")
    expect(name).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("menuitem", name="Give Back GPU Share").wait_for()
    page.keyboard.press("Escape")
    expect(rows(page).get_by_role("button", name="More for one.ipynb")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    in_notebook(page)


def test_the_settings(lab: Server, watched: Page) -> None:
    page = watched
    open_one(lab, page)
    palette(page, "Settings Editor")
    tab_to(page, page.locator(".jp-PluginList .jp-FilterBox").first)
    page.keyboard.type("GPU sizes")
    expect(page.locator(".jp-PluginList-entry")).to_have_count(1)
    size = page.locator("input[id$='defaultSize']").first
    tab_to(page, size)
    page.keyboard.type("1/2")
    until(lambda: lab.ok("gpu-share/choices")["size"] == "1/2", "the server knows it")
    in_time(
        page,
        "window.jupyterapp.serviceManager.settings"
        ".save('jupyter-gpu-share:choices', '{}').then(() => true)",
    )


def test_a_dialog_that_a_command_opens_gives_the_focus_back(lab: Server, watched: Page) -> None:
    page = watched
    open_one(lab, page)
    open_sidebar(page)
    into_cell(page)
    execute(page, "gpu-share:change-size")
    expect(dialog(page).get_by_label("Share of a GPU")).to_be_focused()
    page.keyboard.press("Escape")
    in_notebook(page)
