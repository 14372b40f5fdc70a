"""The broker's page in a real browser: readable by everybody, at any width, whatever is named."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from pages import Heard, assert_readable
from playwright.sync_api import Page, expect
from servers import until
from waiting import PATIENCE

from jupyter_gpu_share.broker.client import BROKER, BrokerAway, BrokerClient

COMMAND = "import sys; from jupyter_gpu_share.cli import main; sys.exit(main(sys.argv[1:]))"
LONG = "course/week-01/a-long-name-of-a-notebook-that-trains.ipynb"
#: How many lines an element has.
LINES = "each => Math.round(each.offsetHeight / parseFloat(getComputedStyle(each).lineHeight))"
HOSTILE = "<img src=x onerror=\"document.title='taken'\">.ipynb"


def start(stack: ExitStack, env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Run the command until the stack ends."""
    command = [sys.executable, "-c", COMMAND, *arguments]
    process = stack.enter_context(
        subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
    )
    stack.callback(process.wait, PATIENCE)
    stack.callback(process.terminate)
    return process


@pytest.fixture
def claims(tmp_path: Path) -> Iterator[tuple[BrokerClient, str]]:
    """A broker as this test's user knows it, and the address of its page."""
    if os.getuid() != 0:
        pytest.skip("only root is an administrator of a broker")
    socket, settings = tmp_path / "broker.sock", tmp_path / "broker_config.py"
    settings.write_text(
        f"c.Broker.folder = {str(tmp_path / 'state')!r}\nc.Broker.simulate = '1xA100-80GB'\n"
    )
    settings.chmod(0o600)
    with ExitStack() as stack:
        start(stack, {}, "broker", "--config", str(settings), "--socket", str(socket))
        client = stack.enter_context(closing(BrokerClient(socket)))

        def there() -> bool:
            try:
                client.ask("GET", "/v1/machine")
            except BrokerAway:
                return False
            return True

        until(there, "the broker answers")
        shown = start(stack, {BROKER: str(socket)}, "page")
        assert shown.stdout is not None
        ready, _, _ = select.select([shown.stdout], [], [], PATIENCE)
        assert ready, "it said nothing"
        yield client, shown.stdout.readline().strip().removeprefix("Open ")


def test_the_machines_page(claims: tuple[BrokerClient, str], page: Page, heard: Heard) -> None:
    client, address = claims
    for kernel, size, path in (
        ("a", "1/2", LONG),
        ("b", "1/4", HOSTILE),
        ("c", "1/2", "waits.ipynb"),
    ):
        client.ask("PUT", f"/v1/shares/{kernel}", {"size": size, "info": {"path": path}})
    client.ask("PUT", "/v1/idle", {"kernels": {"b": 700.0}})
    page.set_viewport_size({"width": 800, "height": 900})
    page.goto(address)
    assert "token" not in page.url
    expect(page.get_by_role("heading", name="GPU shares of all users")).to_be_visible()
    expect(page.get_by_role("cell", name=HOSTILE, exact=True)).to_be_visible()
    expect(page).to_have_title("GPU shares of all users")
    expect(page.get_by_text("It needs 40 GiB of one GPU")).to_be_visible()
    expect(page.get_by_text("'s waits.ipynb (1/2) waits for it. It goes at")).to_be_visible()
    expect(page.get_by_text("Idle shares go for it at")).to_be_visible()
    assert_readable(page)
    page.set_viewport_size({"width": 800, "height": 900})
    # A name is in one piece, or broken at its folders and dashes, so that the buttons are in sight.
    for name, lines in (("waits.ipynb", 1), (LONG, 4)):
        cell = page.get_by_role("cell", name=name, exact=True).locator(".name")
        assert cell.evaluate(LINES) <= lines, name
    box = page.get_by_role("region", name="Held")
    assert box.evaluate("each => each.scrollWidth <= each.clientWidth")
    row = page.get_by_role("row").filter(has_text="trains.ipynb")
    # What is too wide for all that scrolls in its own box.
    page.set_viewport_size({"width": 500, "height": 900})
    assert box.evaluate("each => each.scrollWidth > each.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 800, "height": 900})
    row.get_by_text("End…").click()
    row.get_by_role("button", name="End it: its variables are lost").click()
    expect(page.get_by_text("Nobody.")).to_be_visible()
    states = {each["kernel_id"]: each["state"] for each in client.ask("GET", "/v1/shares")}
    assert states == {"b": "held", "c": "held"}
    page.get_by_role("button", name="Give out no new shares").click()
    expect(page.get_by_text("No new shares are given out for now.")).to_be_visible()
    assert heard.unexpected() == []
    assert not [each for each in heard.everything if "Content Security Policy" in each]
