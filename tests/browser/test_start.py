"""Every way to start a kernel carries the size that was chosen for it."""

from __future__ import annotations

import json
import re

import pytest
from labs import spoil_choice, write_choice, write_kernelspec, write_notebook
from pages import Heard, in_time, open_lab, restored, wait_for_kernel
from parts import (
    accept,
    allocation,
    choose,
    dialog,
    execute,
    granted,
    new_notebook,
    open_sidebar,
    pick,
    rows,
    toolbar,
    until,
)
from playwright.sync_api import Page, expect
from servers import Server

GIB = 2**30


@pytest.fixture(scope="module")
def simulate() -> str:
    return "2xA100-80GB"


def test_a_launcher_card_starts_with_the_default_and_without_a_question(
    lab: Server, page: Page
) -> None:
    open_lab(page, lab)
    page.locator(".jp-LauncherCard[data-category='Notebook']").first.click()
    expect(toolbar(page)).to_contain_text("GPU ¼ · 20 GiB")
    row = granted(lab, "Untitled.ipynb")
    assert (row["size"], row["share"]["memory_bytes"]) == ("1/4", 20 * GIB)
    expect(dialog(page)).to_have_count(0)


def test_the_dialog_starts_with_the_size_that_is_picked(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    first = granted(lab, "one.ipynb")
    choose(page, "1/2")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    row = granted(lab, "one.ipynb")
    assert (row["size"], row["share"]["memory_bytes"]) == ("1/2", 40 * GIB)
    # The kernel before has ended, and its share is free again.
    kernels = [kernel["id"] for kernel in lab.ok("api/kernels")]
    assert kernels == [row["kernel_id"]] != [first["kernel_id"]]
    # The session knows its new kernel, and the server whose kernel it is.
    (session,) = lab.ok("api/sessions")
    assert session["kernel"]["id"] == row["kernel_id"]


def test_another_size_can_be_written(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    choose(page, "30GiB")
    expect(toolbar(page)).to_contain_text("GPU 30 GiB · 30 GiB")
    assert granted(lab, "one.ipynb")["size"] == "30GiB"


def test_a_console_starts_with_the_size_that_is_picked(lab: Server, page: Page) -> None:
    open_lab(page, lab)
    in_time(page, "window.jupyterapp.commands.execute('console:create', {}).then(() => true)")
    execute(page, "console:change-kernel")
    pick(page, "1/2")
    row = granted(lab, "Console 1")
    assert row["share"]["memory_bytes"] == 40 * GIB
    item = page.locator(".jp-ConsolePanel .jp-GpuShare-toolbar button")
    expect(item).to_contain_text("GPU ½ · 40 GiB")
    expect(open_sidebar(page)).to_contain_text("40 GiB ½ of a GPU")


def test_a_notebook_starts_again_with_its_last_choice_even_under_another_name(
    lab: Server, page: Page
) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    choose(page, "1/2")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    in_time(
        page,
        "window.jupyterapp.shell.currentWidget.context.rename('two.ipynb').then(() => true)",
    )
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.path === 'two.ipynb'"
    )
    in_time(page, "window.jupyterapp.shell.currentWidget.sessionContext.shutdown().then(() => 1)")
    open_lab(page, lab, "two.ipynb")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    assert granted(lab, "two.ipynb")["size"] == "1/2"


def test_a_size_that_cannot_be_had_is_refused_beside_its_field_and_the_kernel_runs_on(
    lab: Server, page: Page, heard: Heard
) -> None:
    heard.allow("400|409")
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    kernel = granted(lab, "one.ipynb")["kernel_id"]
    execute(page, "notebook:change-kernel")
    dialog(page).locator("select").first.select_option(label="Python 3 (ipykernel)")
    dialog(page).get_by_label("Share of a GPU").select_option("other")
    other = dialog(page).get_by_label("Other size")
    for size, says in (
        ("3/2", "3/2 is more than one GPU; the largest size here is 1"),
        ("100GiB", "100 GiB is more than the largest GPU here (80 GiB)."),
        ("mig-1g.10gb", "No GPU here has a MIG profile"),
        ("", "size"),
    ):
        other.fill(size)
        accept(page)
        expect(dialog(page).locator(".jp-GpuShare-about")).to_contain_text(says)
        expect(other).to_have_attribute("aria-invalid", "true")
        expect(other).to_be_focused()
    assert [each["id"] for each in lab.ok("api/kernels")] == [kernel]
    other.fill("30GiB")
    expect(dialog(page)).not_to_contain_text("MIG")
    accept(page)
    expect(toolbar(page)).to_contain_text("GPU 30 GiB · 30 GiB")
    # What was refused is nobody's choice.
    assert lab.ok("gpu-share/choices?path=one.ipynb")["size"] == "30GiB"


def test_the_dialog_shows_what_the_kernel_holds_and_changes_it(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "1")
    write_choice(lab, "one.ipynb", "1/2")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    kernel = granted(lab, "one.ipynb")["kernel_id"]
    execute(page, "notebook:change-kernel")
    field = dialog(page).get_by_label("Share of a GPU")
    expect(field).to_have_value("1/2")
    expect(field).to_be_enabled()
    field.select_option("1/4")
    accept(page)
    expect(toolbar(page)).to_contain_text("GPU ¼ · 20 GiB")
    # The kernel was not changed for another one.
    assert granted(lab, "one.ipynb")["kernel_id"] == kernel


def test_a_size_changed_on_the_way_is_the_size_of_the_next_start(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    kernel = granted(lab, "one.ipynb")["kernel_id"]
    execute(page, "gpu-share:change-size", kernelId=kernel, size="1/2")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    in_time(page, "window.jupyterapp.shell.currentWidget.sessionContext.shutdown().then(() => 1)")
    open_lab(page, lab, "one.ipynb")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    assert granted(lab, "one.ipynb")["size"] == "1/2"


def test_the_next_untitled_notebook_has_no_choice_of_the_one_before(
    lab: Server, page: Page
) -> None:
    open_lab(page, lab)
    assert new_notebook(page) == "Untitled.ipynb"
    wait_for_kernel(page)
    choose(page, "1/2")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    in_time(
        page,
        "window.jupyterapp.shell.currentWidget.context.rename('train.ipynb').then(() => true)",
    )
    until(lambda: allocation(lab, "train.ipynb"), "the server knows the new name")
    assert new_notebook(page) == "Untitled.ipynb"
    assert granted(lab, "Untitled.ipynb")["size"] == "1/4"
    assert granted(lab, "train.ipynb")["size"] == "1/2"


def test_who_picks_a_kernelspec_that_names_a_size_has_picked_that_size(
    lab: Server, page: Page
) -> None:
    write_kernelspec(lab, "half", "Half", size="1/2")
    write_notebook(lab, "one.ipynb", "1")
    write_choice(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    expect(toolbar(page)).to_contain_text("GPU 1 · 80 GiB")
    execute(page, "notebook:change-kernel")
    kernels = dialog(page).locator("select").first
    field = dialog(page).get_by_label("Share of a GPU")
    kernels.select_option(label="Python 3 (ipykernel)")
    expect(field).to_have_value("1")
    expect(field.locator("option").first).to_have_text("Default (¼)")
    kernels.select_option(label="Half")
    expect(field).to_have_value("1/2")
    expect(field).to_be_disabled()
    expect(dialog(page)).to_contain_text("starts with the size in its name")
    accept(page)
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    # Without a dialog it is the same, and so it is for the command that makes notebooks.
    write_notebook(lab, "two.ipynb", "1", kernel="half")
    write_choice(lab, "two.ipynb", "1/4")
    open_lab(page, lab, "two.ipynb")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    assert granted(lab, "two.ipynb")["size"] == "1/2"


@pytest.mark.parametrize("by", ["the page", "REST"])
def test_a_kernel_that_was_changed_says_what_the_name_of_its_kernelspec_means(
    lab: Server, page: Page, by: str
) -> None:
    again = "Its kernelspec names ½: the next kernel starts with that again."
    write_kernelspec(lab, "half", "Half", size="1/2")
    write_notebook(lab, "one.ipynb", "1", kernel="half")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    panel = open_sidebar(page)
    expect(panel).to_contain_text("40 GiB ½ of a GPU")
    expect(panel).not_to_contain_text(again)
    kernel = granted(lab, "one.ipynb")["kernel_id"]
    if by == "REST":
        lab.ok(f"gpu-share/allocations/{kernel}", "PATCH", {"size": "1/4"})
    else:
        execute(page, "gpu-share:change-size", kernelId=kernel, size="1/4")
        done = page.locator(".Toastify__toast", has_text="one.ipynb has a share of ¼.")
        expect(done).to_contain_text(again)
    expect(panel).to_contain_text("20 GiB ¼ of a GPU")
    expect(panel).to_contain_text(again)
    expect(toolbar(page)).to_have_attribute("title", re.compile(re.escape(again)))
    # What it says is so.
    in_time(page, "window.jupyterapp.shell.currentWidget.sessionContext.shutdown().then(() => 1)")
    open_lab(page, lab, "one.ipynb")
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    assert granted(lab, "one.ipynb")["size"] == "1/2"
    expect(open_sidebar(page)).not_to_contain_text(again)


def test_a_size_that_cannot_be_had_now_says_so_and_why(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    # Half of one GPU, then three quarters of the other.
    for size in ("1/2", "3/4"):
        lab.start_kernel(size)
    execute(page, "notebook:change-kernel")
    dialog(page).locator("select").first.select_option(label="Python 3 (ipykernel)")
    field = dialog(page).get_by_label("Share of a GPU")
    field.select_option("1")
    expect(field.locator("option:checked")).to_contain_text("(not now)")
    expect(dialog(page)).to_contain_text("Not now: It needs")
    page.keyboard.press("Escape")


def test_a_running_kernel_is_joined_with_the_share_that_it_has(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    running = lab.start_kernel("1/2")
    in_time(page, "window.jupyterapp.serviceManager.kernels.refreshRunning().then(() => 1)")
    execute(page, "notebook:change-kernel")
    kernels = dialog(page).locator("select").first
    kernels.select_option(value=json.dumps({"id": running}, separators=(",", ":")))
    expect(dialog(page).get_by_label("Share of a GPU")).to_be_disabled()
    expect(dialog(page).get_by_label("Share of a GPU")).to_have_value("1/2")
    expect(dialog(page)).to_contain_text("This kernel is used elsewhere too")
    accept(page)
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")


def test_a_kernelspec_without_a_share_is_offered_no_size(lab: Server, page: Page) -> None:
    write_kernelspec(lab, "plain", "Plain", provisioner="local-provisioner")
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    execute(page, "notebook:change-kernel")
    field = dialog(page).get_by_label("Share of a GPU")
    kernels = dialog(page).locator("select").first
    kernels.select_option(label="Python 3 (ipykernel)")
    expect(field).to_be_visible()
    kernels.select_option(label="Plain")
    expect(field).to_be_hidden()
    accept(page)
    until(
        lambda: [each["name"] for each in lab.ok("api/kernels")] == ["plain"],
        "the other kernel runs",
    )
    assert lab.ok("gpu-share/allocations") == []


def test_the_launcher_has_sizes_only_where_the_administrator_wants_them(
    lab: Server, page: Page
) -> None:
    open_lab(page, lab)
    cards = page.locator(".jp-LauncherCard[data-category='GPU']")
    expect(page.locator(".jp-LauncherCard[data-category='Notebook']").first).to_be_visible()
    expect(cards).to_have_count(0)
    in_time(
        page,
        "window.jupyterapp.serviceManager.settings"
        ".save('jupyter-gpu-share:launcher', '{\"show\": true}').then(() => true)",
    )
    open_lab(page, lab)
    expect(cards).to_have_count(4)
    cards.filter(has_text="½").click()
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    assert granted(lab, "Untitled.ipynb")["size"] == "1/2"


def test_a_user_sets_a_default_of_their_own(lab: Server, page: Page) -> None:
    open_lab(page, lab)
    save = "window.jupyterapp.serviceManager.settings.save('jupyter-gpu-share:choices', %r)"
    in_time(page, save % '{"defaultSize": "1/2"}' + ".then(() => true)")
    try:
        open_lab(page, lab)
        until(lambda: lab.ok("gpu-share/choices")["size"] == "1/2", "the server knows it")
        new_notebook(page)
        expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    finally:
        in_time(page, save % "{}" + ".then(() => true)")


def test_without_a_choice_nothing_is_asked_of_the_server(lab: Server, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    open_lab(page, lab)
    path = new_notebook(page)
    wait_for_kernel(page)
    assert allocation(lab, path) is not None
    assert not [one for one in asked if "gpu-share/choices" in one]


def test_a_start_that_fails_shows_its_cause(lab: Server, page: Page, heard: Heard) -> None:
    heard.allow("50[01]|503")
    heard.allow("MIG")
    write_notebook(lab, "one.ipynb", "1")
    spoil_choice(lab, "one.ipynb")
    open_lab(page, lab, "one.ipynb")
    expect(dialog(page)).to_contain_text("No GPU here has a MIG profile")
    accept(page)
    # The notebook can be used on: the next start is the default again.
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    assert granted(lab, "one.ipynb")["size"] == "1/4"


def test_a_reload_while_a_kernel_starts_shows_its_share_and_any_that_was_left(
    lab: Server, page: Page
) -> None:
    write_notebook(lab, "one.ipynb", "1")
    with page.expect_request(lambda one: one.method == "POST" and "/api/sessions" in one.url):
        page.goto(f"{lab.url}lab/workspaces/start/tree/one.ipynb")
    page.reload()
    restored(page)
    expect(toolbar(page)).to_contain_text("GPU ¼ · 20 GiB")
    wait_for_kernel(page)
    # Lab itself may start a second kernel when it is reloaded before it knows of the first; then
    # the first is not hidden from whoever pays for it.
    held = len(lab.ok("gpu-share/allocations"))
    open_sidebar(page)
    expect(rows(page)).to_have_count(held)
