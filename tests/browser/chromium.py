"""The browser of the tests and of the benchmark: the system's own Chromium, without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright
from waiting import PATIENCE

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Chromium, until the block ends; RuntimeError where there is none.

    While it runs, this thread has a running event loop, which is Playwright's.
    """
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise RuntimeError("Chromium is not there; run scripts/install-tools, or install it.")
    with sync_playwright() as playwright:
        # Without a sandbox: as root Chromium has none, and the pages are our own.
        browser = playwright.chromium.launch(
            executable_path=found,
            # Nor is there a GPU to draw with: a process that plays one takes a tenth of all time.
            args=["--no-sandbox", "--disable-gpu", "--disable-software-rasterizer"],
            timeout=PATIENCE * 1000,
        )
        try:
            yield browser
        finally:
            browser.close()
