"""What an open page asks of the server, and what not."""

from __future__ import annotations

import time
from typing import Literal

from labs import write_notebook
from pages import open_lab, wait_for_kernel
from parts import execute, open_sidebar, until
from playwright.sync_api import Page, Request
from servers import Server
from waiting import PATIENCE


def asked(page: Page, when: Literal["request", "requestfinished"]) -> list[Request]:
    """Our own requests that begin, or end, from now on; the scripts of the page are none."""
    found: list[Request] = []

    def note(request: Request) -> None:
        if "/gpu-share/" in request.url:
            found.append(request)

    page.on(when, note)
    return found


def test_an_open_page_asks_no_more_than_twelve_times_a_minute(lab: Server, page: Page) -> None:
    for name in ("one.ipynb", "two.ipynb", "three.ipynb"):
        write_notebook(lab, name, "1")
    requests = asked(page, "requestfinished")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    open_sidebar(page)
    # Each notebook that comes to the front has a past that is asked for at once.
    for name in ("two.ipynb", "three.ipynb"):
        execute(page, "docmanager:open", path=name)
        wait_for_kernel(page)

    end = time.monotonic() + 2 * PATIENCE + 60
    while len(times := begun(requests)) < 2 or times[-1] - times[0] <= 60:
        assert time.monotonic() < end, f"no minute of requests: {times}"
        page.wait_for_timeout(100)  # lets the page's events come
    most = max(sum(0 <= other - one < A_MINUTE for other in times) for one in times)
    assert 8 <= most <= 12, most


#: Nearly: the page and the browser read their clocks one after the other.
A_MINUTE = 59.9


def begun(requests: list[Request]) -> list[float]:
    """When they were made, by the browser's clock: a busy machine tells of them late."""
    return sorted(request.timing["startTime"] / 1000 for request in requests)


def test_a_page_that_nobody_sees_asks_nothing_and_activity_is_not_counted(
    lab: Server, page: Page
) -> None:
    open_lab(page, lab)
    open_sidebar(page)
    requests = asked(page, "request")

    def one() -> bool:
        page.wait_for_timeout(100)
        return len(requests) >= 1

    until(one, "a request of the page that is seen")
    # Chromium without a window hides no page by itself.
    page.evaluate(
        """() => {
          Object.defineProperty(document, 'hidden', {value: true, configurable: true});
          Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true});
          document.dispatchEvent(new Event('visibilitychange'));
        }"""
    )
    before = len(requests)
    page.wait_for_timeout(12_000)
    assert len(requests) == before


def test_our_requests_do_not_count_as_use_of_the_server(lab: Server, page: Page) -> None:
    before = lab.ok("api/status")["last_activity"]
    first = lab.ok("api/status")["last_activity"]
    # A status request itself is not counted either, as servers have it.
    assert first >= before
    for path in ("gpu-share/allocations", "gpu-share/status", "gpu-share/sizes"):
        lab.ok(path)
    assert lab.ok("api/status")["last_activity"] == first
