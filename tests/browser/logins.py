"""The Hub's log-in, as users of the broker's page meet it."""

from __future__ import annotations

from hubs import PASSWORD
from playwright.sync_api import Page

__all__ = ["log_in"]


def log_in(page: Page, address: str, name: str) -> None:
    """Open the broker's page as somebody whom the Hub does not know yet."""
    page.goto(address)
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(address)
