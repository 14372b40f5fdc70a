"""What a person sees of a share that goes back by itself, on a server that does it soon."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from labs import write_notebook
from pages import expect_text, log_in, open_lab, run_cell, wait_for_kernel
from parts import allocation, open_sidebar, sidebar, toolbar, until
from playwright.sync_api import BrowserContext, Page, expect
from servers import Server

SOON = (
    "--IdlePolicy.idle_after=1",
    "--IdlePolicy.rule=fixed",
    "--IdlePolicy.timeout=12",
    "--IdlePolicy.warn_before=8",
)


@pytest.fixture
def quick(make_lab: Callable[..., Server], context: BrowserContext, page: Page) -> Server:
    server = make_lab(*SOON)
    log_in(context, server)
    write_notebook(server, "one.ipynb", "x = object(); n = id(x)", "print(id(x) == n)")
    open_lab(page, server, "one.ipynb")
    wait_for_kernel(page)
    open_sidebar(page)
    run_cell(page, 0)
    return server


def test_an_unused_share_is_counted_down_goes_back_and_comes_with_a_cell(
    quick: Server, page: Page
) -> None:
    expect(toolbar(page)).to_contain_text(re.compile(r"idle, 0:0\d"), timeout=20_000)
    expect(sidebar(page)).to_contain_text("Goes back in 0:0")
    warning = page.locator(".Toastify__toast").filter(has_text="goes back at")
    expect(warning).to_contain_text("The share of one.ipynb goes back at")
    more = sidebar(page).get_by_role("link", name="More about idle shares")
    expect(more).to_have_attribute("href", re.compile(r"/docs/idle\.md$"))
    expect(toolbar(page)).to_contain_text("given back", timeout=20_000)
    expect(warning).to_have_count(0)  # it is true no longer
    expect(page.locator(".Toastify")).to_contain_text("The variables are kept")
    assert (allocation(quick, "one.ipynb") or {})["share"] is None
    expect_text(run_cell(page, 1), "True")
    expect(toolbar(page)).to_contain_text("GPU ¼ · 20 GiB")


def test_keep_gpu_in_the_warning_keeps_it(quick: Server, page: Page) -> None:
    toast = page.locator(".Toastify")
    expect(toast).to_contain_text("goes back at", timeout=20_000)
    toast.get_by_role("button", name="Keep").click()
    expect(sidebar(page)).to_contain_text("Kept until")

    def stays() -> bool:
        row = allocation(quick, "one.ipynb") or {}
        return row["keep_until"] is not None and (row["next"] or {}).get("action") != "release"

    until(stays, "it stays")
    expect(toolbar(page)).to_contain_text("idle, kept until")
