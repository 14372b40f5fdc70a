"""The item in the toolbar takes what room there is, and its menu opens at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from labs import disable, write_notebook
from languages import PSEUDO, set_language, speak
from pages import in_time, log_in, open_lab, wait_for_kernel
from parts import dialog, execute, granted, open_sidebar, toolbar
from playwright.sync_api import BrowserContext, Page, Route, expect
from pretending import moment, pretend
from servers import Server

_ITEMS = """
() => [...document.querySelectorAll('.jp-NotebookPanel-toolbar > .jp-Toolbar-item')]
  .filter(item => item.offsetWidth > 1 && item.getAttribute('data-jp-item-name'))
  .map(item => item.getAttribute('data-jp-item-name'))
  .filter(name => name !== 'spacer')
"""
#: Lab looks at the room every half a second.
_QUIET = """
new Promise(resolve => {
  let timer = setTimeout(resolve, 1500, true);
  const again = () => {
    clearTimeout(timer);
    timer = setTimeout(resolve, 1500, true);
  };
  const toolbar = document.querySelector('.jp-NotebookPanel-toolbar');
  new MutationObserver(again).observe(toolbar, {childList: true});
})
"""
#: What lies over what: words over the edge of our item, and our item over its neighbours.
_OVER = """
() => {
  const item = document.querySelector('.jp-NotebookPanel-toolbar .jp-GpuShare-toolbar');
  const box = item.getBoundingClientRect();
  const found = [];
  // Where there is no room at all, nothing of it is seen.
  const seen = one => one.offsetWidth > 0 && one.checkVisibility({visibilityProperty: true});
  for (const one of item.querySelectorAll('button, span')) {
    const own = one.getBoundingClientRect();
    if (seen(one) && (own.left < box.left - 1 || own.right > box.right + 1)) {
      found.push(`out: ${one.className}`);
    }
  }
  const words = [...item.querySelectorAll('span')].filter(seen);
  for (const [one, next] of words.slice(1).map((next, at) => [words[at], next])) {
    if (one.getBoundingClientRect().right > next.getBoundingClientRect().left + 1) {
      found.push(`over each other: ${one.className}, ${next.className}`);
    }
  }
  for (const other of document.querySelectorAll('.jp-NotebookPanel-toolbar > .jp-Toolbar-item')) {
    const own = other.getBoundingClientRect();
    if (other !== item && own.width > 0 && own.left < box.right - 1 && own.right > box.left + 1) {
      found.push(`over ${other.getAttribute('data-jp-item-name')}`);
    }
  }
  return found;
}
"""


@pytest.fixture
def english_again(lab_of_file: Server) -> Iterator[None]:
    """The next test of the file begins without a language."""
    yield
    set_language(lab_of_file, None)


def items(page: Page) -> list[str]:
    """Names of the items that are seen in the toolbar, once Lab moves none of them any more."""
    in_time(page, _QUIET)
    return [str(name) for name in page.evaluate(_ITEMS)]


@pytest.mark.parametrize("width", [1280, 800])
def test_it_never_drives_out_what_is_labs(lab: Server, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    write_notebook(lab, "one.ipynb", "1")
    found = []
    for off in (True, False):
        disable(lab, {"jupyter-gpu-share:toolbar": off})
        open_lab(page, lab, "one.ipynb")
        wait_for_kernel(page)
        if width == 1280:
            open_sidebar(page)
        found.append(items(page))
    without, own = found
    assert [name for name in own if name != "gpuShare"] == without
    if "gpuShare" in own:
        # Nothing of it lies over its neighbours.
        item = page.locator(".jp-NotebookPanel-toolbar .jp-GpuShare-toolbar")
        assert item.evaluate("node => node.firstElementChild.offsetWidth <= node.offsetWidth")


@pytest.mark.parametrize("width", [1400, 1280, 1100])
def test_longer_words_stay_within_it(
    lab: Server, page: Page, english_again: None, width: int
) -> None:
    speak(page, lab, PSEUDO)
    page.set_viewport_size({"width": width, "height": 800})
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    idle = {"state": "idle", "next": {"action": "release", "at": moment(50)}}
    pretend(page, [{**granted(lab, "one.ipynb"), **idle}])
    execute(page, "gpu-share:show")
    page.locator(".jp-GpuShare-sidebar").wait_for()
    expect(page.locator(".jp-GpuShare-toolbar .jp-GpuShare-word")).to_contain_text("\u00eedl\u00e9")
    in_time(page, _QUIET)
    assert page.evaluate(_OVER) == []


def test_the_menu_opens_at_once_however_long_the_engine_takes(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    granted(lab, "one.ipynb")
    expect(toolbar(page)).to_contain_text("GPU ¼")
    held: list[Route] = []
    page.route("**/gpu-share/sizes*", lambda route: held.append(route))
    lab.start_kernel("1/2")
    toolbar(page).click()
    menu = page.get_by_role("menu")
    expect(menu.get_by_role("menuitem", name="Change GPU Share…")).to_be_visible()
    assert len(held) == 1
    held[0].continue_()
    expect(menu.get_by_role("menuitem", name="½ · 40 GiB")).to_be_visible()
    # What cannot be had says why.
    expect(menu.get_by_role("menuitem", name="1 · 80 GiB")).to_contain_text(
        "Not now: It needs 80 GiB of one GPU"
    )
    page.keyboard.press("Escape")
    expect(menu).to_have_count(0)
    expect(toolbar(page)).to_be_focused()


def test_without_a_gpu_the_page_is_calm(
    make_lab: Callable[..., Server], context: BrowserContext, page: Page
) -> None:
    server = make_lab(simulate="")
    log_in(context, server)
    write_notebook(server, "one.ipynb", "1")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_lab(page, server, "one.ipynb")
    wait_for_kernel(page)
    expect(page.locator(".jp-GpuShare-status")).to_be_hidden()
    expect(toolbar(page)).to_have_count(0)
    assert not [url for url in asked if "gpu-share/sizes" in url]
    execute(page, "notebook:change-kernel")
    expect(dialog(page)).to_contain_text("Select Kernel")
    dialog(page).locator("select").first.select_option(label="Python 3 (ipykernel)")
    expect(dialog(page).get_by_label("Share of a GPU")).to_be_hidden()
    expect(page.locator(".Toastify__toast")).to_have_count(0)
