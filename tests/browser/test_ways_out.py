"""A start that waits or has failed has two ways out by one click; nothing waits to be shown."""

from __future__ import annotations

import pytest
from labs import spoil_choice, write_choice, write_kernelspec, write_notebook
from pages import Heard, in_time, open_lab, wait_for_kernel
from parts import accept, dialog, execute, granted, open_sidebar, rows, sidebar, toolbar, until
from playwright.sync_api import Page, Route, expect
from servers import Server

WAYS = [("Take What Is Free", "1/4", "GPU ¼ · 20 GiB"), ("Start Without a GPU", "0", "No GPU")]


@pytest.mark.parametrize(("button", "size", "shown"), WAYS)
def test_from_the_card_while_a_start_waits(
    lab: Server, page: Page, heard: Heard, button: str, size: str, shown: str
) -> None:
    heard.allow("500|503|Error")
    lab.start_kernel("3/4")
    write_notebook(lab, "waits.ipynb", "1")
    write_choice(lab, "waits.ipynb", "1/2")
    open_lab(page, lab, "waits.ipynb")
    card = open_sidebar(page).locator(".jp-GpuShare-buttons")
    expect(sidebar(page).get_by_role("button", name="Lost variables")).to_have_count(0)
    for each, _, _ in WAYS:
        expect(card.get_by_role("button", name=each)).to_be_visible()
    card.get_by_role("button", name=button).click()
    expect(toolbar(page)).to_contain_text(shown)
    wait_for_kernel(page)
    assert granted(lab, "waits.ipynb")["size"] == size
    expect(card.get_by_role("button", name=button)).to_have_count(0)


@pytest.mark.parametrize(("button", "size", "shown"), WAYS)
def test_from_the_card_after_a_start_has_failed_whose_kernelspec_names_a_size(
    lab: Server, page: Page, heard: Heard, button: str, size: str, shown: str
) -> None:
    heard.allow("50[01]|503|MIG")
    lab.start_kernel("3/4")
    write_kernelspec(lab, "mig", "Python (MIG)", size="mig-1g.10gb")
    write_notebook(lab, "fails.ipynb", "1", kernel="mig")
    open_lab(page, lab, "fails.ipynb")
    accept(page)
    dialog(page).get_by_role("button", name="No Kernel").click()
    card = open_sidebar(page).locator(".jp-GpuShare-buttons")
    card.get_by_role("button", name=button).click()
    expect(toolbar(page)).to_contain_text(shown)
    wait_for_kernel(page)
    row = granted(lab, "fails.ipynb")
    assert (row["kernel_name"], row["size"]) == ("mig", size)
    # That was for this kernel: the name of the kernelspec is true of the next one again.
    assert lab.ok("gpu-share/choices?path=fails.ipynb")["size"] is None


def test_from_the_list_for_a_notebook_that_is_not_open(
    lab: Server, page: Page, heard: Heard
) -> None:
    heard.allow("50[01]|503|MIG")
    write_notebook(lab, "fails.ipynb", "1")
    spoil_choice(lab, "fails.ipynb")
    open_lab(page, lab, "fails.ipynb")
    accept(page)
    dialog(page).get_by_role("button", name="No Kernel").click()
    expect(toolbar(page)).to_contain_text("failed")
    execute(page, "application:close-all")
    expect(page.locator(".jp-NotebookPanel")).to_have_count(0)
    open_sidebar(page)
    rows(page).get_by_role("button", name="Start Without a GPU: fails.ipynb").click()
    expect(toolbar(page)).to_contain_text("No GPU")
    assert granted(lab, "fails.ipynb")["size"] == "0"


def test_resize_and_select_kernel_open_at_once_however_long_the_engine_takes(
    lab: Server, page: Page
) -> None:
    write_notebook(lab, "one.ipynb", "1")
    held: list[Route] = []
    page.route("**/gpu-share/sizes*", lambda route: held.append(route))
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    open_sidebar(page).get_by_role("button", name="Change…").click()
    field = dialog(page).get_by_label("Share of a GPU")
    expect(field).to_have_value("1/4")
    expect(dialog(page)).to_contain_text("Asking for the sizes…")
    held.pop().continue_()
    expect(field.locator("option")).to_have_count(5)
    expect(field).to_have_value("1/4")
    expect(dialog(page)).not_to_contain_text("Asking")
    field.select_option("1/2")
    accept(page)
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    # The sizes are known by now; what is picked stays when they come anew.
    sidebar(page).get_by_role("button", name="Change…").click()
    expect(field.locator("option")).to_have_count(5)
    field.select_option("1")
    held.pop().continue_()
    until(lambda: in_time(page, "Promise.resolve(true)"), "the page is there")
    expect(field).to_have_value("1")
    dialog(page).get_by_role("button", name="Cancel").click()
    execute(page, "notebook:change-kernel")
    expect(dialog(page)).to_contain_text("Select Kernel")
    expect(field).to_be_hidden()
    held.pop().continue_()
    expect(field).to_have_value("1/2")


def test_what_a_release_does_not_keep_is_one_click_away(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "; ".join(f"g{n} = (x for x in [])" for n in range(9)) + "; 7")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    page.locator(".jp-Cell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text("7")
    panel = open_sidebar(page)
    execute(page, "gpu-share:change-size", size="0")
    expect(dialog(page)).to_contain_text("The kernel restarts")
    accept(page)
    expect(toolbar(page)).to_contain_text("No GPU")
    panel.get_by_role("button", name="Lost variables…").click()
    expect(dialog(page)).to_contain_text("Lost variables of one.ipynb")
    names = dialog(page).locator("li code")
    expect(names).to_have_text([f"g{n}" for n in range(9)])
    page.keyboard.press("Escape")
    expect(panel.get_by_role("button", name="Lost variables…")).to_be_focused()
