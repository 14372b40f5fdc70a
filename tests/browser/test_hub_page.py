"""The broker's page behind a real JupyterHub, in a real browser that logs in at the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from broker_users import User, user
from hubs import ANN, BOB, CAT, UIDS, RunningHub, running_hub
from logins import log_in
from pages import Heard, assert_readable
from playwright.sync_api import BrowserContext, Page, expect

from jupyter_gpu_share.broker.client import DEFAULT_SOCKET

HOSTILE = "<img src=x onerror=\"document.title='taken'\">.ipynb"


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    with running_hub() as running:
        yield running


@pytest.fixture
def users(hub: RunningHub) -> Iterator[dict[str, User]]:
    """Programs of ann, who holds a share, and of bob, who holds one and waits for one."""
    with ExitStack() as stack:
        socket = Path(DEFAULT_SOCKET)
        found = {
            name: stack.enter_context(user(UIDS[name], socket, *hub.inside)) for name in (ANN, BOB)
        }
        long = "course/week-01/a-long-name-of-a-notebook-that-trains.ipynb"
        found[ANN].claim("a", "1/2", info={"path": long})
        found[BOB].claim("b", "1/4", info={"path": HOSTILE})
        found[BOB].claim("c", "1/2", info={"path": "waits.ipynb"})
        yield found


def assert_fits(page: Page, heard: Heard) -> None:
    """All of it is loaded, and it is readable by everybody and at any width."""
    # Before axe, which asks for more than the page may have.
    assert not [each for each in heard.everything if "Content Security Policy" in each]
    assert_readable(page)


def test_an_administrator_logs_in_and_ends_a_kernel(
    hub: RunningHub, users: dict[str, User], page: Page, heard: Heard
) -> None:
    log_in(page, hub.page, CAT)
    expect(page).to_have_title("GPU shares of all users")
    expect(page.get_by_role("cell", name=HOSTILE, exact=True)).to_be_visible()
    # The Hub's own style sheet and logo are there.
    bar = page.get_by_role("navigation", name="JupyterHub")
    assert bar.evaluate("bar => getComputedStyle(bar).display") == "flex"
    assert bar.get_by_role("img").evaluate("logo => logo.naturalWidth > 0")
    caption = page.get_by_text("Held", exact=True).first
    assert caption.evaluate("text => getComputedStyle(text).captionSide") == "top"
    assert_fits(page, heard)
    row = page.get_by_role("row").filter(has_text="trains.ipynb")
    row.get_by_text("End…").click()
    row.get_by_role("button", name="End it: its variables are lost").click()
    expect(page.get_by_text("Nobody.")).to_be_visible()
    assert page.url == hub.page
    assert hub.claims() == {"b": (BOB, "held"), "c": (BOB, "held")}
    page.get_by_role("button", name="Give out no new shares").click()
    expect(page.get_by_text("No new shares are given out for now.")).to_be_visible()
    page.get_by_role("button", name="Give out shares again").click()
    expect(page.get_by_text("No new shares are given out for now.")).not_to_be_visible()
    # The proof of a form is of its own visitor and form; a cookie alone does nothing.
    for proof in ("", "forged"):
        answer = page.request.post(f"{hub.page}do", form={"do": "pause", "_xsrf": proof})
        assert (answer.status, answer.text()[:33]) == (403, "This did not come from the page; ")
    assert not hub.ask_broker("GET", "/v1/machine")["paused"]
    bar.get_by_role("link", name="Home").click()
    page.wait_for_url(f"{hub.url}hub/home")
    assert heard.unexpected() == []


def test_a_user_logs_in_and_sees_their_own(
    hub: RunningHub, users: dict[str, User], context: BrowserContext, page: Page, heard: Heard
) -> None:
    log_in(page, hub.page, BOB)
    expect(page).to_have_title("Your GPU shares")
    expect(page.get_by_role("cell", name=HOSTILE, exact=True)).to_be_visible()
    expect(page.get_by_text("It needs 40 GiB of one GPU")).to_be_visible()
    expect(page.get_by_role("button")).to_have_count(0)
    assert ANN not in page.content() and "trains" not in page.content()
    assert_fits(page, heard)
    assert heard.unexpected() == []
    # The Hub's login is the page's: who logs out there is out here.
    page.get_by_role("link", name="Logout").click()
    page.wait_for_url(re.compile("/hub/(logout|login)"))
    context.clear_cookies(name=re.compile("service-gpu-share"))
    page.goto(hub.page)
    expect(page.get_by_label("Username")).to_be_visible()
