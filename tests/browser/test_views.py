"""What is shown when there is little to show, to everybody, and with hostile names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from labs import allocation_of, write_notebook
from pages import Heard, assert_accessible, log_in, open_lab, wait_for_kernel
from parts import choose, dialog, execute, granted, open_sidebar, rows, sidebar, toolbar
from playwright.sync_api import BrowserContext, Page, Route, expect
from pretending import gpu, pretend, thirty
from servers import Server

ALLOCATIONS = re.compile(r"/gpu-share/allocations(\?|$)")
EVENT = "https://events.jupyter.org/jupyter_gpu_share/allocation/v1"
THEMES = ["JupyterLab Light", "JupyterLab Dark", "JupyterLab Dark High Contrast"]
STATUS = re.compile(r"/gpu-share/status(\?|$)")


def answer(page: Page, address: re.Pattern[str], status: int, body: Any) -> None:
    """Have the page see another answer: a FAKE of a server in a state that it cannot be put in."""

    def fulfil(route: Route) -> None:
        route.fulfill(status=status, content_type="application/json", body=json.dumps(body))

    page.route(address, fulfil)


CALM = [
    (403, "Forbidden", "You may not see GPU shares on this server."),
    (404, "Not Found", "This server gives no GPU shares"),
    (500, "The server met an error; its log says more.", "The server met an error"),
]


@pytest.mark.parametrize(("status", "message", "shown"), CALM)
def test_a_refusal_is_one_calm_sentence(
    lab: Server, page: Page, heard: Heard, status: int, message: str, shown: str
) -> None:
    heard.allow(str(status))
    answer(page, ALLOCATIONS, status, {"message": message, "reason": None})
    open_lab(page, lab)
    panel = open_sidebar(page)
    expect(panel).to_contain_text(shown)
    expect(panel.get_by_role("button")).to_have_count(0)
    assert_accessible(page, ".jp-GpuShare-sidebar")


def test_while_nothing_is_known_that_is_said(lab: Server, page: Page) -> None:
    held: list[Route] = []
    page.route(ALLOCATIONS, lambda route: held.append(route))
    open_lab(page, lab)
    panel = open_sidebar(page)
    expect(panel).to_contain_text("Asking the server for GPU shares…")
    assert_accessible(page, ".jp-GpuShare-sidebar")
    for route in held:
        route.continue_()
    page.unroute(ALLOCATIONS)
    expect(panel).to_contain_text("No kernel of yours has a share.")


def test_without_a_gpu_one_sentence_is_said(lab: Server, page: Page) -> None:
    nothing = {
        **lab.ok("gpu-share/status"),
        "gpus": [],
        "simulated": False,
        "problem": "No NVIDIA GPU was found on this machine.",
    }
    answer(page, STATUS, 200, nothing)
    open_lab(page, lab)
    panel = open_sidebar(page)
    expect(panel).to_have_text("No NVIDIA GPU was found on this machine.")
    assert_accessible(page, ".jp-GpuShare-sidebar")


def row(number: int, **changes: Any) -> dict[str, Any]:
    """An allocation that loses its variables when it is given back."""
    lost = {"how": "none", "lost": ["all variables"]}
    return allocation_of(f"00000000-0000-4000-8000-{number:012d}", kept=lost, **changes)


EVERY_STATE = [
    row(1, state="queued", queue={"position": 2, "of": 4}, reason="It needs 40 GiB of one GPU."),
    row(2, state="starting"),
    row(3, state="active"),
    row(4, state="idle", next={"action": "release", "at": "2126-03-01T12:00:00Z"}),
    row(5, state="releasing"),
    row(6, state="released", idle_since="2026-03-01T12:00:00Z"),
    row(7, state="waking", queue={"position": 1, "of": 1}),
    row(8, state="failed", reason="The image cannot be pulled; check its name."),
]


@pytest.mark.parametrize("theme", THEMES)
def test_every_state_is_told_in_words_and_accessibly(lab: Server, page: Page, theme: str) -> None:
    answer(page, ALLOCATIONS, 200, EVERY_STATE)
    page.emulate_media(reduced_motion="reduce")
    open_lab(page, lab)
    execute(page, "apputils:change-theme", theme=theme)
    page.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")
    panel = open_sidebar(page)
    words = ["Waiting, 2 of 4", "Starting", "Active", "Idle", "Being given back", "Given back"]
    for word in [*words, "Waking, 1 of 1", "Failed"]:
        expect(panel).to_contain_text(word)
    expect(rows(page)).to_have_count(8)
    assert_accessible(page, ".jp-GpuShare-sidebar")
    moving = page.evaluate(
        """() => [...document.querySelectorAll('.jp-GpuShare-sidebar *')]
          .filter(one => getComputedStyle(one).animationName !== 'none').length"""
    )
    assert moving == 0


@pytest.mark.parametrize("theme", THEMES)
def test_thirty_kernels_are_accessible_in_every_theme(lab: Server, page: Page, theme: str) -> None:
    pretend(page, thirty(), gpus=[gpu("G0", 4)], queue=10)
    open_lab(page, lab)
    execute(page, "apputils:change-theme", theme=theme)
    page.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")
    panel = open_sidebar(page)
    expect(rows(page)).to_have_count(30)
    assert_accessible(page, ".jp-GpuShare-sidebar")
    # What is seen of a row only with the pointer, or the focus, on it; and a list without one.
    rows(page).nth(3).hover()
    rows(page).nth(4).get_by_role("button", name="resnet50").first.focus()
    assert_accessible(page, ".jp-GpuShare-sidebar")
    panel.get_by_role("searchbox", name="Filter").fill("nothing is called so")
    expect(panel).to_contain_text("No kernel matches.")
    assert_accessible(page, ".jp-GpuShare-sidebar")


@pytest.mark.parametrize("theme", THEMES)
def test_the_parts_around_a_notebook_are_accessible(lab: Server, page: Page, theme: str) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    execute(page, "apputils:change-theme", theme=theme)
    page.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")
    wait_for_kernel(page)
    open_sidebar(page)
    expect(toolbar(page)).to_be_visible()
    for part in (".jp-GpuShare-sidebar", ".jp-GpuShare-toolbar", ".jp-GpuShare-status"):
        assert_accessible(page, part)
    execute(page, "notebook:change-kernel")
    dialog(page).locator("select").first.select_option(label="Python 3 (ipykernel)")
    assert_accessible(page, ".jp-GpuShare-sizeField")
    page.keyboard.press("Escape")
    execute(page, "gpu-share:change-size")
    expect(dialog(page).get_by_label("Share of a GPU")).to_be_visible()
    assert_accessible(page, ".jp-GpuShare-sizeField")


def test_menus_messages_and_dialogs_are_accessible_in_every_theme(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    lab.start_kernel("3/4")
    waits = row(1, state="queued", queue={"position": 1, "of": 1}, reason="It needs 40 GiB.")
    lab.ok("api/events", "POST", {"schema_id": EVENT, "version": "1", "data": waits})
    report = {"kernel_id": waits["kernel_id"], "lost": [LOSS], "aside": [ASIDE]}
    answer(page, re.compile(r"/kept(\?|$)"), 200, report)
    for theme in THEMES:
        execute(page, "apputils:change-theme", theme=theme)
        page.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")
        expect(page.locator(".Toastify__toast")).to_contain_text("waits for a share")
        # How Lab shows its messages is Lab's.
        assert_accessible(page, ".jp-toastContainer .jp-toast-message", ignore=("region",))
        toolbar(page).click()
        item = page.get_by_role("menuitem", name="1 · 80 GiB")
        expect(item).to_contain_text("Not now")
        assert_accessible(page, ".lm-Menu .jp-GpuShare-caption")
        page.keyboard.press("Escape")
        execute(page, "gpu-share:show-lost", kernelId=waits["kernel_id"])
        expect(dialog(page)).to_contain_text("generator")
        assert_accessible(page, ".jp-GpuShare-lost")
        page.keyboard.press("Escape")
        expect(dialog(page)).to_have_count(0)


LOSS = {"name": "numbers", "what": "generator", "why": "it cannot be saved."}
ASIDE = {"file": "/x/y", "bytes": 2**30, "saved": "2026-03-01T12:00:00Z", "missing": [LOSS]}
HOSTILE = '<img src=x onerror="window.hostile=1"><b>bold</b>'
LONG = "x" * 10_000
RIGHT_TO_LEFT = "\u202e\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd.ipynb"


def test_hostile_names_and_reasons_are_text(lab: Server, page: Page) -> None:
    found = [
        row(1, path=f"{HOSTILE}.ipynb", reason=HOSTILE, state="failed"),
        row(2, path=f"{LONG}.ipynb", reason=LONG, state="queued", queue={"position": 1, "of": 1}),
        row(3, path=RIGHT_TO_LEFT, kernel_name=HOSTILE),
        row(4, path=None, kernel_name=HOSTILE, user=HOSTILE),
    ]
    open_lab(page, lab)
    panel = open_sidebar(page)
    expect(panel).to_contain_text("No kernel of yours has a share.")
    answer(page, ALLOCATIONS, 200, found)
    for each in found:
        event = {"schema_id": EVENT, "version": "1", "data": each}
        lab.ok("api/events", "POST", event)
    expect(rows(page)).to_have_count(4)
    expect(panel).to_contain_text(HOSTILE)
    execute(page, "running:show-panel")
    expect(page.locator("#jp-running-sessions")).to_contain_text("onerror")
    expect(page.locator(".Toastify")).to_contain_text("onerror")
    assert page.evaluate("() => window.hostile") is None
    assert page.locator(".jp-GpuShare-sidebar img[src], .jp-GpuShare-sidebar b").count() == 0
    # Nothing is pushed out of the panel by a name of 10,000 characters.
    box = panel.bounding_box()
    assert box is not None
    for button in panel.get_by_role("button").all():
        own = button.bounding_box()
        assert own is not None
        assert own["x"] + own["width"] <= box["x"] + box["width"]
    assert panel.evaluate("one => one.scrollWidth <= one.clientWidth")
    for theme in THEMES:
        execute(page, "apputils:change-theme", theme=theme)
        page.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")
        assert_accessible(page, ".jp-GpuShare-sidebar")


def test_a_real_notebook_with_a_hostile_name_is_text_everywhere(lab: Server, page: Page) -> None:
    name = "<img src=x onerror=window.hostile=1> \u05e9\u05dc\u05d5\u05dd.ipynb"
    write_notebook(lab, name, "1")
    open_lab(page, lab)
    execute(page, "docmanager:open", path=name)
    wait_for_kernel(page)
    choose(page, "1/2")
    expect(toolbar(page)).to_contain_text("GPU ½")
    assert granted(lab, name)["size"] == "1/2"
    expect(open_sidebar(page)).to_contain_text(name)
    execute(page, "gpu-share:change-size")
    expect(dialog(page)).to_contain_text(name)
    page.keyboard.press("Escape")
    assert page.evaluate("() => window.hostile") is None


def test_a_server_that_is_gone_is_said_and_nothing_is_asked_of_it(
    make_lab: Callable[..., Server], context: BrowserContext, page: Page, heard: Heard
) -> None:
    heard.allow("ERR_CONNECTION_REFUSED|Failed to fetch|NetworkError|WebSocket")
    server = make_lab()
    log_in(context, server)
    open_lab(page, server)
    open_sidebar(page)
    expect(sidebar(page)).to_contain_text("No kernel of yours")
    server.process.terminate()
    server.process.wait(30)
    expect(sidebar(page)).to_contain_text("The server does not answer.", timeout=60_000)


def test_a_command_without_a_server_says_so_and_ends(
    make_lab: Callable[..., Server], context: BrowserContext, page: Page, heard: Heard
) -> None:
    heard.allow("ERR_CONNECTION_REFUSED|Failed to fetch|NetworkError|WebSocket")
    server = make_lab()
    log_in(context, server)
    write_notebook(server, "one.ipynb", "1")
    open_lab(page, server, "one.ipynb")
    wait_for_kernel(page)
    expect(toolbar(page)).to_contain_text("GPU ¼")
    # Lab loads what shows messages with the first one.
    execute(page, "apputils:notify", message="The first one.", options={"autoClose": False})
    expect(page.locator(".Toastify")).to_contain_text("The first one.")
    server.process.kill()
    server.process.wait(30)
    execute(page, "gpu-share:change-size", size="1/2")  # the page may not know it yet, or may
    expect(page.locator(".Toastify")).to_contain_text("The server does not answer. Try again")
    ours = [line for line in heard.everything if "gpu-share" in line and "uncaught:" in line]
    assert ours == []
