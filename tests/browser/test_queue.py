"""Waiting for a share: seen, given up, and over with a reload."""

from __future__ import annotations

from labs import spoil_choice, write_choice, write_notebook
from pages import Heard, open_lab, restored, wait_for_kernel
from parts import accept, allocation, dialog, granted, open_sidebar, rows, toolbar, until
from playwright.sync_api import Page, expect
from servers import Server


def test_three_kernels_on_one_gpu_see_their_places_move(lab: Server, page: Page) -> None:
    holders = [lab.start_kernel("1"), lab.start_kernel("3/4"), lab.start_kernel("3/4")]
    write_notebook(lab, "last.ipynb", "print(6 * 7)")
    write_choice(lab, "last.ipynb", "3/4")
    open_lab(page, lab, "last.ipynb")
    expect(toolbar(page)).to_contain_text("waiting, 3 of 3")
    panel = open_sidebar(page)
    expect(panel).to_contain_text("Waiting, 3 of 3")
    expect(panel).to_contain_text("It needs 60 GiB of one GPU")
    expect(panel).to_contain_text("3 kernels wait.")
    sizes = rows(page).filter(has_text="waiting").locator(".jp-GpuShare-chip")
    expect(sizes).to_contain_text(["¾", "¾", "¾"])
    # All that wait are in one message.
    toasts = page.locator(".Toastify__toast")
    expect(toasts).to_contain_text("3 kernels wait for a share: python3, python3, last.ipynb.")
    expect(toasts).to_have_count(1)
    for place, holder in zip(("2 of 2", "1 of 1"), holders, strict=False):
        lab.fetch(f"api/kernels/{holder}", "DELETE")
        expect(toolbar(page)).to_contain_text(f"waiting, {place}")
    lab.fetch(f"api/kernels/{holders[2]}", "DELETE")
    expect(toolbar(page)).to_contain_text("GPU ¾ · 60 GiB")
    wait_for_kernel(page)
    # It is true no longer.
    expect(toasts.filter(has_text="wait")).to_have_count(0)


def test_a_reload_while_waiting_shows_the_same_place(lab: Server, page: Page) -> None:
    holder = lab.start_kernel("1")
    write_notebook(lab, "waits.ipynb", "1")
    write_choice(lab, "waits.ipynb", "1/2")
    open_lab(page, lab, "waits.ipynb", workspace="queue")
    expect(toolbar(page)).to_contain_text("waiting, 1 of 1")
    # Its session is there once it is held by the relay; the page tells it the path a moment later.
    until(lambda: session_of(lab, "waits.ipynb"), "the session is there")
    page.reload()
    restored(page)
    expect(toolbar(page)).to_contain_text("waiting, 1 of 1")
    assert len(lab.ok("gpu-share/allocations")) == 2
    lab.fetch(f"api/kernels/{holder}", "DELETE")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")


def test_a_reload_while_released_shows_it_released(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb", workspace="released")
    wait_for_kernel(page)
    row = granted(lab, "one.ipynb")
    place = f"gpu-share/allocations/{row['kernel_id']}"
    until(
        lambda: lab.fetch(f"{place}/release", "POST", {"lose_variables": True})[0] == 200,
        "the share goes back",
    )
    expect(toolbar(page)).to_contain_text("given back")
    page.reload()
    restored(page)
    expect(toolbar(page)).to_contain_text("given back")
    assert (allocation(lab, "one.ipynb") or {})["state"] == "released"


def test_waiting_is_given_up_from_the_notification(lab: Server, page: Page, heard: Heard) -> None:
    heard.allow("500|503|Error")
    lab.start_kernel("1")
    write_notebook(lab, "waits.ipynb", "1")
    write_choice(lab, "waits.ipynb", "1/2")
    open_lab(page, lab, "waits.ipynb")
    expect(toolbar(page)).to_contain_text("waiting, 1 of 1")
    until(lambda: lab.ok("api/sessions"), "the session is there")
    page.locator(".Toastify").get_by_role("button", name="Stop waiting").click()
    until(
        lambda: (
            (allocation(lab, "waits.ipynb") or {"state": "ended"})["state"] in ("released", "ended")
        ),
        "it waits no longer",
    )
    expect(toolbar(page)).not_to_contain_text("waiting")


def test_a_kernel_that_waits_starts_without_a_gpu_by_one_click(
    lab: Server, page: Page, heard: Heard
) -> None:
    heard.allow("500|503|Error")
    lab.start_kernel("3/4")
    write_notebook(lab, "waits.ipynb", "1")
    write_choice(lab, "waits.ipynb", "1/2")
    open_lab(page, lab, "waits.ipynb")
    toast = page.locator(".Toastify__toast")
    expect(toast).to_contain_text("waits.ipynb waits for a share: 1 of 1.")
    toast.get_by_role("button", name="Start without a GPU").click()
    expect(toolbar(page)).to_contain_text("No GPU")
    wait_for_kernel(page)
    assert granted(lab, "waits.ipynb")["size"] == "0"


def test_a_failed_start_stays_visible_with_its_cause_and_a_way_out(
    lab: Server, page: Page, heard: Heard
) -> None:
    heard.allow("50[01]|503|MIG")
    write_notebook(lab, "fails.ipynb", "1")
    spoil_choice(lab, "fails.ipynb")
    open_lab(page, lab, "fails.ipynb")
    accept(page)
    # Lab asks for a kernel then.
    dialog(page).get_by_role("button", name="No Kernel").click()
    expect(toolbar(page)).to_contain_text("failed")
    expect(open_sidebar(page)).to_contain_text("No GPU here has a MIG profile")
    toast = page.locator(".Toastify__toast", has_text="fails.ipynb has no share")
    expect(toast).to_contain_text("No GPU here has a MIG profile")
    toast.get_by_role("button", name="Take what is free").click()
    expect(toolbar(page)).to_contain_text("GPU 1 · 80 GiB")
    wait_for_kernel(page)
    expect(toast).to_have_count(0)


def session_of(lab: Server, path: str) -> bool:
    """Whether a page that is loaded now finds the notebook's session."""
    return any(session["path"] == path for session in lab.ok("api/sessions"))
