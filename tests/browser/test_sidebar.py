"""The sidebar: one notebook's share and its past hour, all kernels, and the GPUs as they are."""

from __future__ import annotations

import re
from typing import Any

import pytest
from labs import write_notebook
from pages import Heard, assert_accessible, in_time, open_lab, restored, run_cell, wait_for_kernel
from parts import execute, granted, open_sidebar, rows, sidebar, until
from playwright.sync_api import Page, expect
from pretending import gpu, moment, pretend, row, share, tell, thirty
from servers import Server

GIB = 2**30


@pytest.fixture(scope="module")
def simulate() -> str:
    return "2xA100-80GB"


def open_one(lab: Server, page: Page) -> str:
    """Open a notebook with a kernel of the default size, and the sidebar; the kernel's id."""
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb", workspace="sidebar")
    wait_for_kernel(page)
    open_sidebar(page)
    expect(sidebar(page)).to_contain_text("20 GiB ¼ of a GPU")
    return str(granted(lab, "one.ipynb")["kernel_id"])


# -- the notebook in front -----------------------------------------------------------------------


def test_a_reload_shows_the_hour_that_the_server_has_kept(lab: Server, page: Page) -> None:
    kernel_id = open_one(lab, page)

    def samples() -> Any:
        return lab.ok(f"gpu-share/history/{kernel_id}")["samples"]["used_bytes"]

    until(lambda: len(samples()) >= 2, "two samples")
    run_cell(page, 0)
    sidebar(page).get_by_role("button", name="Give Back").click()
    expect(sidebar(page)).to_contain_text("Run a cell to take the share back.")
    page.reload()
    restored(page)
    panel = open_sidebar(page)
    # Drawn from the server's samples: this page has read nothing of a share.
    memory = panel.get_by_role("img", name=re.compile(r"Memory, now none.* Given back at \d"))
    expect(memory.locator("path.jp-mod-line")).to_have_count(1)
    expect(memory.locator("rect.jp-mod-gap")).to_have_count(1)
    expect(panel.locator("dd").nth(0)).to_have_text("\u2013")
    expect(panel.locator("dd").nth(2)).to_have_text(re.compile(r"\d GPU-hours"))
    panel.get_by_role("button", name="Wake", exact=True).click()
    expect(panel.get_by_role("img", name=re.compile(r"back at \d"))).to_be_visible()


def test_the_pointer_tells_the_value_and_the_time(lab: Server, page: Page) -> None:
    kernel_id = open_one(lab, page)
    until(lambda: lab.ok(f"gpu-share/history/{kernel_id}")["samples"]["begin"], "a sample")
    plot = sidebar(page).locator(".jp-GpuShare-plot").first
    expect(plot.locator("path.jp-mod-line")).to_have_count(1)
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    expect(plot.locator(".jp-GpuShare-tip")).to_have_text(re.compile(r"^0 GiB · \d+:\d\d [AP]M$"))
    page.mouse.move(10, 10)
    expect(plot.locator(".jp-GpuShare-tip")).to_have_count(0)


def test_without_a_gpu_nothing_is_drawn_and_no_button_does_nothing(
    lab: Server, page: Page, heard: Heard
) -> None:
    open_one(lab, page)
    execute(page, "gpu-share:change-size", size="0")
    panel = sidebar(page)
    expect(panel).to_contain_text("This kernel runs without a GPU.")
    expect(panel.locator("svg[role=img]")).to_have_count(0)
    for name in ("Keep the share", "Give Back", "Wake"):
        expect(panel.get_by_role("button", name=name)).to_have_count(0)
    expect(panel.get_by_role("button", name="Change…")).to_be_visible()
    assert not [line for line in heard.everything if "NaN" in line]


def test_a_kernel_that_failed_stays_with_its_cause_until_it_is_read(
    lab: Server, page: Page
) -> None:
    open_lab(page, lab)
    open_sidebar(page)
    cause = "The image cannot be pulled; check its name."
    failed = row(1, path="gone.ipynb", state="failed", reason=cause)
    known: list[dict[str, Any]] = []
    pretend(page, known)
    tell(lab, failed)
    expect(rows(page)).to_contain_text(["Failed"])
    tell(lab, {**failed, "state": "ended", "reason": "The kernel has ended."})
    known.append(row(2, path="other.ipynb", state="starting"))
    tell(lab, known[0])
    expect(rows(page)).to_have_count(2)
    expect(sidebar(page)).to_contain_text(cause)
    sidebar(page).get_by_role("button", name="Hide").click()
    expect(sidebar(page)).not_to_contain_text(cause)
    tell(lab, failed)
    tell(lab, {**failed, "state": "ended", "reason": "The kernel has ended."})
    expect(sidebar(page)).to_contain_text(cause)
    tell(lab, row(3, path="gone.ipynb", state="starting"))  # it is started again
    expect(sidebar(page)).not_to_contain_text(cause)


# -- focus ---------------------------------------------------------------------------------------


def test_the_focus_goes_into_the_panel_and_comes_back_from_its_menus(
    lab: Server, page: Page
) -> None:
    open_one(lab, page)
    page.locator(".jp-Notebook").first.focus()
    execute(page, "gpu-share:show")
    expect(sidebar(page)).to_be_focused()
    page.keyboard.press("Tab")
    assert in_time(page, "Promise.resolve(document.activeElement.closest('[role=region]').id)") == (
        "jupyter-gpu-share-sidebar"
    )
    keep = sidebar(page).get_by_role("button", name="Keep the share for a time")
    keep.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem", name="Keep for 1 Hour")).to_be_visible()
    page.keyboard.press("Escape")
    expect(keep).to_be_focused()
    more = sidebar(page).get_by_role("button", name="More for one.ipynb")
    more.focus()
    page.keyboard.press("Enter")
    page.get_by_role("menuitem", name="Change GPU Share…").wait_for()
    page.keyboard.press("Escape")
    expect(more).to_be_focused()


def test_the_focus_stays_where_a_button_has_gone(lab: Server, page: Page) -> None:
    open_one(lab, page)  # and no cell is run: Lab would take the focus to the next one, later
    sidebar(page).get_by_role("button", name="Give Back").focus()
    page.keyboard.press("Enter")
    sidebar(page).get_by_role("button", name="Wake", exact=True).wait_for()
    # On the first button that was there when this one went: on Wake, or on Resize before it came.
    expect(sidebar(page).locator(".jp-GpuShare-buttons button:focus")).to_have_count(1)


# -- all kernels ---------------------------------------------------------------------------------


def test_thirty_kernels_can_be_found_ordered_and_opened(lab: Server, page: Page) -> None:
    write_notebook(lab, "runs.ipynb", "1")
    (lab.folder / "runs").mkdir()
    (lab.folder / "runs.ipynb").rename(lab.folder / "runs" / "resnet50-ablation-07.ipynb")
    pretend(page, thirty(), gpus=[gpu("G0", 4)], queue=10)
    open_lab(page, lab)
    panel = open_sidebar(page)
    expect(rows(page)).to_have_count(30)
    expect(panel).to_contain_text("30 · 60 GiB held")
    names = rows(page).get_by_role("button", name=re.compile("^resnet50"))
    panel.get_by_role("combobox", name="Order").select_option("name")
    expect(names.first).to_have_accessible_name("resnet50-ablation-00.ipynb")
    panel.get_by_role("combobox", name="Order").select_option("state")
    expect(rows(page).first).to_contain_text("Waiting")
    panel.get_by_role("searchbox", name="Filter").fill("active 15")
    expect(rows(page)).to_have_count(1)
    panel.get_by_role("searchbox", name="Filter").fill("nothing is called so")
    expect(panel).to_contain_text("No kernel matches.")
    panel.get_by_role("searchbox", name="Filter").fill("")
    # One stop of Tab for all of them, and the arrows from there.
    names.first.focus()
    page.keyboard.press("End")
    expect(names.last).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(names.nth(28)).to_be_focused()
    assert names.evaluate_all("all => all.filter(one => one.tabIndex === 0).length") == 1
    assert_accessible(page, ".jp-GpuShare-sidebar")
    found = rows(page).filter(has=page.get_by_role("button", name="resnet50-ablation-07.ipynb"))
    found.first.click(position={"x": 60, "y": 30})
    page.get_by_role("tab", name="resnet50-ablation-07.ipynb").wait_for()
    found.first.click(button="right")
    expect(page.get_by_role("menuitem", name="Stop Waiting for GPU Share")).to_be_visible()
    page.keyboard.press("Escape")
    wait_for_kernel(page)


def test_memory_is_of_all_gpus_of_a_share(lab: Server, page: Page) -> None:
    two = row(1, size="2x1/2", state="active", share=share(12, "1/2", "G0", "G1"))
    pretend(page, [{**two, "used_bytes": 18 * GIB}], gpus=[gpu("G0", 12), gpu("G1", 12)])
    open_lab(page, lab)
    open_sidebar(page)
    expect(rows(page)).to_contain_text([re.compile("2 . ½ · 24 GiB")])
    bar = rows(page).locator(".jp-GpuShare-bar span")
    assert bar.evaluate("one => one.style.width") == "75%"


# -- the GPUs ------------------------------------------------------------------------------------


def test_fragments_are_not_added_up(lab: Server, page: Page) -> None:
    lab.start_kernel("3/4")
    lab.start_kernel("1/2")
    open_lab(page, lab)
    panel = open_sidebar(page)
    expect(panel).to_contain_text("40 GiB free at most")
    gpus = panel.get_by_role("list", name="GPUs").get_by_role("listitem")
    expect(gpus).to_contain_text([" · 0", " · 1"])
    expect(gpus).to_contain_text(["20 GiB free", "40 GiB free"])


def test_others_are_a_sum_without_names(lab: Server, page: Page) -> None:
    mine = row(1, path="mine.ipynb", state="active", share=share(6, "1/4", "G0"))
    lost = row(2, path="lost.ipynb", state="active", share=share(6, "1/4", "elsewhere"))
    pretend(page, [mine], gpus=[gpu("G0", 8)])
    open_lab(page, lab)
    panel = open_sidebar(page)
    expect(
        panel.get_by_role("img", name="mine.ipynb 6 GiB, others 10 GiB, 8 GiB free")
    ).to_be_visible()
    pretend(page, [mine, lost], gpus=[gpu("G0", 8)])
    tell(lab, lost)
    # Where a share of mine lies is not known: what is in use may be mine.
    expect(panel.get_by_role("img", name="mine.ipynb 6 GiB, in use 10 GiB")).to_be_visible()


def test_who_waits_is_told_when_there_may_be_room(lab: Server, page: Page) -> None:
    waits = row(1, state="queued", queue={"position": 1, "of": 2}, reason="It needs 24 GiB.")
    turn = moment(4)
    pretend(
        page,
        [waits],
        gpus=[gpu("G0", 0)],
        queue=2,
        next_release=turn,
        turns={waits["kernel_id"]: turn},
    )
    open_lab(page, lab)
    panel = open_sidebar(page)
    expect(rows(page)).to_contain_text(["Waiting, 1 of 2 · about 4 min"])
    expect(panel).to_contain_text("2 kernels wait. An idle share goes back in about 4 min.")
    expect(rows(page).get_by_role("button", name="Start Without a GPU")).to_be_visible()


def test_without_a_ground_no_time_is_told(lab: Server, page: Page) -> None:
    pretend(page, [row(1, state="queued", queue={"position": 1, "of": 1})], queue=1)
    open_lab(page, lab)
    panel = open_sidebar(page)
    expect(panel).to_contain_text("1 kernel waits.")
    expect(panel).not_to_contain_text("about")


@pytest.mark.parametrize("width", [1280, 800])
def test_words_that_are_longer_by_two_fifths_stay_within(
    lab: Server, page: Page, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 600})
    open_one(lab, page)
    panel = sidebar(page)
    panel.get_by_role("list", name="GPUs").wait_for()
    outside = panel.evaluate(
        """panel => {
          const walk = document.createTreeWalker(panel, NodeFilter.SHOW_TEXT);
          while (walk.nextNode()) {
            const text = walk.currentNode;
            text.data += 'ö'.repeat(Math.ceil(0.4 * text.data.trim().length));
          }
          const edge = panel.getBoundingClientRect();
          return [...panel.querySelectorAll('button, p, dt, dd, .jp-GpuShare-chip')]
            .filter(one => one.getBoundingClientRect().right > edge.right + 1)
            .map(one => one.textContent);
        }"""
    )
    assert outside == []
    assert panel.evaluate("one => one.scrollWidth <= one.clientWidth")
