"""What a person sees of a share, and does with it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from labs import write_notebook
from pages import (
    Heard,
    expect_text,
    in_time,
    open_lab,
    open_notebook7,
    run_cell,
    wait_for_kernel,
)
from parts import (
    accept,
    allocation,
    choose,
    dialog,
    execute,
    granted,
    open_sidebar,
    sidebar,
    toolbar,
    until,
)
from playwright.sync_api import Page, expect
from servers import Server


def open_one(lab: Server, page: Page) -> None:
    """Open a notebook whose kernel has the default share, and the sidebar."""
    write_notebook(lab, "one.ipynb", "kept = 1", "print('kept' in globals())")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    open_sidebar(page)
    expect(sidebar(page)).to_contain_text("20 GiB ¼ of a GPU")


def test_the_sidebar_says_what_is_held_and_what_is_free(lab: Server, page: Page) -> None:
    open_one(lab, page)
    panel = sidebar(page)
    for title in ("This notebook", "My kernels", "GPUs"):
        expect(panel.get_by_role("heading", name=title)).to_be_visible()
    expect(panel).to_contain_text("A100-80GB (simulated) · ")
    expect(panel).to_contain_text("Soft limit: a cell above 20 GiB is stopped.")
    panel.get_by_role("button", name="Why?").click()
    expect(panel).to_contain_text("PyTorch and JAX are told the limit.")
    expect(panel).to_contain_text("These GPUs are simulated")
    expect(panel).to_contain_text("1 · 20 GiB held")
    expect(panel.get_by_role("img", name="one.ipynb 20 GiB, 60 GiB free")).to_be_visible()
    expect(panel.get_by_role("img", name="Memory, now 0 of 20 GiB.")).to_be_visible()
    expect(panel.get_by_role("img", name="GPU use, now 0 %.")).to_be_visible()


def test_a_size_is_changed_from_the_toolbar_and_variables_are_kept(lab: Server, page: Page) -> None:
    open_one(lab, page)
    run_cell(page, 0)
    toolbar(page).click()
    page.get_by_role("menuitem", name="½ · 40 GiB").click()
    expect(toolbar(page)).to_contain_text("GPU ½ · 40 GiB")
    until(lambda: granted(lab, "one.ipynb")["size"] == "1/2", "the kernel has half")
    expect(sidebar(page)).to_contain_text("40 GiB ½ of a GPU")
    expect_text(run_cell(page, 1), "True")


def test_what_a_change_of_size_would_lose_is_said_before(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "numbers = (n for n in range(9)); 7")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    expect_text(run_cell(page, 0), "7")
    execute(page, "gpu-share:change-size", size="0")
    expect(dialog(page)).to_contain_text("The kernel restarts")
    expect(dialog(page)).to_contain_text("these will be lost: generator `numbers`")
    dialog(page).get_by_role("button", name="Cancel").click()
    expect(dialog(page)).to_have_count(0)
    assert granted(lab, "one.ipynb")["size"] == "1/4"
    execute(page, "gpu-share:change-size", size="0")
    accept(page)
    expect(toolbar(page)).to_contain_text("No GPU")


def test_a_change_that_is_not_agreed_to_changes_nothing(lab: Server, page: Page) -> None:
    open_one(lab, page)
    before = granted(lab, "one.ipynb")
    execute(page, "gpu-share:change-size")
    dialog(page).get_by_label("Share of a GPU").select_option("1/2")
    dialog(page).get_by_role("button", name="Cancel").click()
    expect(dialog(page)).to_have_count(0)
    assert granted(lab, "one.ipynb")["share"] == before["share"]


def test_a_change_that_does_not_fit_says_why(lab: Server, page: Page, heard: Heard) -> None:
    heard.allow("409")
    open_one(lab, page)
    lab.start_kernel("3/4")
    execute(page, "gpu-share:change-size", size="1")
    expect(page.locator(".Toastify")).to_contain_text("The size cannot become 1 now")
    assert granted(lab, "one.ipynb")["size"] == "1/4"


def test_a_share_goes_back_and_comes_back(lab: Server, page: Page) -> None:
    open_one(lab, page)
    until(lambda: (allocation(lab, "one.ipynb") or {})["state"] == "active", "it is active")
    panel = sidebar(page)
    run_cell(page, 0)
    panel.get_by_role("button", name="Give Back").click()
    expect(panel).to_contain_text("Given back")
    expect(panel).to_contain_text("Run a cell to take the share back. Variables are kept.")
    expect(toolbar(page)).to_contain_text("given back")
    expect(panel.get_by_role("img", name="80 GiB free")).to_be_visible()
    assert (allocation(lab, "one.ipynb") or {})["share"] is None
    panel.get_by_role("button", name="Wake", exact=True).click()
    expect(toolbar(page)).to_contain_text("GPU ¼ · 20 GiB")
    granted(lab, "one.ipynb")
    expect_text(run_cell(page, 1), "True")


def test_a_share_is_kept_for_a_time(lab: Server, page: Page) -> None:
    open_one(lab, page)
    panel = sidebar(page)
    panel.get_by_role("button", name="Keep").click()
    page.get_by_role("menuitem", name="Keep for 1 Hour").click()
    expect(panel).to_contain_text("Kept until")
    until_ = datetime.fromisoformat((allocation(lab, "one.ipynb") or {})["keep_until"])
    left = until_ - datetime.now(timezone.utc)
    assert timedelta(minutes=58) < left <= timedelta(minutes=60)
    execute(page, "gpu-share:stop-keeping")
    expect(panel).not_to_contain_text("Kept until")
    assert (allocation(lab, "one.ipynb") or {})["keep_until"] is None


def test_two_tabs_of_one_notebook_agree(lab: Server, page: Page) -> None:
    open_one(lab, page)
    other = page.context.new_page()
    open_lab(other, lab, "one.ipynb")
    expect(toolbar(other)).to_contain_text("GPU ¼ · 20 GiB")
    choose(page, "1/2")
    for tab in (page, other):
        expect(toolbar(tab)).to_contain_text("GPU ½ · 40 GiB")
    execute(other, "gpu-share:keep", minutes=30)
    expect(sidebar(page)).to_contain_text("Kept until")


def test_the_running_panel_lists_shares(lab: Server, page: Page) -> None:
    open_one(lab, page)
    execute(page, "running:show-panel")
    panel = page.locator("#jp-running-sessions")
    expect(panel).to_contain_text("GPU shares")
    item = panel.locator(".jp-RunningSessions-item", has_text="GPU ¼ · 20 GiB")
    expect(item).to_contain_text("one.ipynb")


def test_give_back_all_of_the_running_panel_gives_all_back(lab: Server, page: Page) -> None:
    open_one(lab, page)
    lab.start_kernel("1/4")
    until(lambda: len(lab.ok("gpu-share/allocations")) == 2, "both have a share")
    execute(page, "running:show-panel")
    panel = page.locator("#jp-running-sessions")
    panel.get_by_role("button", name="Give Back All").click()
    dialog(page).get_by_role("button", name="Give Back All").click()
    until(
        lambda: [row["state"] for row in lab.ok("gpu-share/allocations")] == ["released"] * 2,
        "both are given back",
    )
    # What is given back has nothing to give back.
    item = panel.locator(".jp-RunningSessions-item", has_text="given back").first
    item.hover()
    expect(item.locator(".jp-RunningSessions-itemShutdown")).to_have_count(0)


def test_the_status_bar_shows_the_share_and_opens_the_sidebar(lab: Server, page: Page) -> None:
    open_one(lab, page)
    execute(page, "application:toggle-right-area")
    expect(sidebar(page)).to_be_hidden()
    item = page.locator(".jp-GpuShare-status button")
    expect(item).to_contain_text("GPU ¼ · 20 GiB")
    width = item.bounding_box()
    item.click()
    expect(sidebar(page)).to_be_visible()
    execute(page, "launcher:create")
    expect(item).to_contain_text("No GPU share")
    after = item.bounding_box()
    assert width is not None
    assert after is not None
    assert width["width"] == after["width"]


def test_everything_is_a_command_in_palette_and_menu(lab: Server, page: Page) -> None:
    open_one(lab, page)
    execute(page, "apputils:activate-command-palette")
    palette = page.locator(".jp-ModalCommandPalette, #command-palette").last
    palette.get_by_role("searchbox").or_(palette.locator("input")).first.fill("GPU")
    for label in ("Change GPU Share…", "Give Back GPU Share", "Show GPU Shares", "Keep for 1 Hour"):
        expect(palette.locator(".lm-CommandPalette-item", has_text=label).first).to_be_visible()
    page.keyboard.press("Escape")
    described = page.evaluate(
        """async () => {
          const ids = window.jupyterapp.commands.listCommands();
          const ours = ids.filter(id => id.startsWith('gpu-share:'));
          const found = {};
          for (const id of ours) {
            const {args} = await window.jupyterapp.commands.describedBy(id);
            found[id] = args;
          }
          return found;
        }"""
    )
    assert len(described) == 11
    for command, args in described.items():
        assert args["type"] == "object", command
        assert all(one["description"] for one in args["properties"].values()), command
    page.get_by_role("menuitem", name="Kernel").click()
    expect(page.get_by_role("menuitem", name="Give Back GPU Share")).to_be_visible()


def test_notebook_7_shows_and_changes_the_share(notebook7: Server, page: Page) -> None:
    write_notebook(notebook7, "one.ipynb", "1")
    open_notebook7(page, notebook7, "one.ipynb")
    wait_for_kernel(page)
    expect(page.locator(".jp-GpuShare-toolbar button")).to_contain_text("GPU ¼ · 20 GiB")
    execute(page, "notebook:change-kernel")
    dialog(page).locator("select").first.select_option(label="Python 3 (ipykernel)")
    dialog(page).get_by_label("Share of a GPU").select_option("1/2")
    accept(page)
    expect(page.locator(".jp-GpuShare-toolbar button")).to_contain_text("GPU ½ · 40 GiB")
    execute(page, "gpu-share:show")
    expect(sidebar(page)).to_contain_text("40 GiB ½ of a GPU")


def test_the_tree_of_notebook_7_lists_shares(notebook7: Server, page: Page) -> None:
    write_notebook(notebook7, "one.ipynb", "1")
    open_notebook7(page, notebook7, "one.ipynb")
    wait_for_kernel(page)
    open_notebook7(page, notebook7)
    page.get_by_role("tab", name="Running").click()
    panel = page.locator("#jp-running-sessions-tree")
    item = panel.locator(".jp-RunningSessions-item", has_text="GPU ¼ · 20 GiB")
    expect(item).to_contain_text("one.ipynb")
    with page.context.expect_page() as opened:
        item.locator(".jp-RunningSessions-itemLabel").click()
    assert opened.value.url.endswith("/notebooks/one.ipynb")
    item.hover()
    item.locator(".jp-RunningSessions-itemShutdown").click()
    expect(panel).to_contain_text("given back")


def test_it_works_in_800_pixels_and_by_keyboard(lab: Server, page: Page) -> None:
    page.set_viewport_size({"width": 800, "height": 600})
    open_one(lab, page)
    panel = sidebar(page)
    box = panel.bounding_box()
    assert box is not None
    assert box["x"] > 0 and box["x"] + box["width"] <= 800
    for button in panel.get_by_role("button").all():
        own = button.bounding_box()
        assert own is not None
        assert own["x"] >= box["x"] and own["x"] + own["width"] <= box["x"] + box["width"]
    panel.get_by_role("button", name="Change…").focus()
    order = []
    for _ in range(3):
        order.append(in_time(page, "Promise.resolve(document.activeElement.textContent)"))
        page.keyboard.press("Tab")
    assert order == ["Change…", "Keep", "Give Back"]
    panel.get_by_role("button", name="Give Back").focus()
    page.keyboard.press("Enter")
    expect(panel).to_contain_text("Given back")
