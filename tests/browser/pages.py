"""What tests do on a page, and what they hold against it. No wait here is without an end."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, WebError, expect
from servers import Server
from waiting import PATIENCE

#: How long a page may take for anything, in milliseconds.
PATIENCE_MS = PATIENCE * 1000
expect.set_options(timeout=PATIENCE_MS)

_AXE = Path(__file__).parents[2] / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
#: What our scripts, routes and plugins have in their addresses and names.
_OURS = re.compile(r"gpu[-_]share", re.IGNORECASE)

#: Evaluated as a promise of the page; ``evaluate`` alone would wait for ever.
_IN_TIME = """
([source, patience]) => Promise.race([
  (0, eval)(source),
  new Promise((_, fail) => setTimeout(() => fail(new Error(`not in ${patience} ms`)), patience))
])
"""

_KERNEL_STATUS = """
() => {
  const front = window.jupyterapp.shell.currentWidget;
  const context = front?.sessionContext ?? front?.context?.sessionContext;
  return context?.session?.kernel?.status;
}
"""


@dataclass
class Heard:
    """What the consoles of a test's pages said.

    Attributes
    ----------
    errors: those that come from us, in words.
    everything: all lines, for whoever looks into a failure.
    allowed: patterns of errors that the test provokes.
    """

    errors: list[str] = field(default_factory=list)
    everything: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        """Say that errors which match are what the test is about."""
        self.allowed.append(pattern)

    def listen(self, context: BrowserContext) -> None:
        """Note what every page of the context says, those to come included."""
        context.on("console", self._console)
        context.on("weberror", self._error)

    def unexpected(self) -> list[str]:
        """Errors from us that no test allows, each once and without the lines of its stack."""
        left = [e for e in self.errors if not any(re.search(p, e) for p in self.allowed)]
        return list(dict.fromkeys(re.sub(r"\n\s+at .*", "", error) for error in left))

    def _console(self, message: ConsoleMessage) -> None:
        line = f"{message.text}\n({message.location.get('url', '')})"
        self.everything.append(f"{message.type}: {line}")
        if message.type in ("error", "assert") and _OURS.search(line):
            self.errors.append(line)

    def _error(self, error: WebError) -> None:
        line = f"{error.error.message}\n{error.error.stack}"
        self.everything.append(f"uncaught: {line}")
        if _OURS.search(line):
            self.errors.append(line)


def log_in(context: BrowserContext, server: Server) -> None:
    """Give the context the server's cookie, so that no address has to carry the token."""
    answer = context.request.get(
        f"{server.url}api/status?token={server.token}", timeout=PATIENCE_MS
    )
    assert answer.ok, answer.status
    context.request.get(f"{server.url}login?token={server.token}", timeout=PATIENCE_MS)


def in_time(page: Page, source: str, patience: float = PATIENCE) -> Any:
    """Evaluate JavaScript in the page, and its promise to the end; fail where that takes longer."""
    return page.evaluate(_IN_TIME, [source, patience * 1000])


def open_lab(page: Page, server: Server, path: str = "", workspace: str | None = None) -> Page:
    """Open Lab, with a file if one is named, and wait until it has restored itself.

    Every call has a workspace of its own unless the test names one: what was open elsewhere is
    not opened again.
    """
    workspace = workspace or f"test-{uuid4().hex[:8]}"
    tree = f"/tree/{path}" if path else ""
    page.goto(f"{server.url}lab/workspaces/{workspace}{tree}", timeout=PATIENCE_MS)
    return restored(page)


def open_notebook7(page: Page, server: Server, path: str = "") -> Page:
    """Open Notebook 7: the file, or the tree."""
    page.goto(f"{server.url}{f'notebooks/{path}' if path else 'tree'}", timeout=PATIENCE_MS)
    return restored(page)


def restored(page: Page) -> Page:
    """Wait until the application has started and laid itself out, as after a reload."""
    page.wait_for_function("() => window.jupyterapp", timeout=PATIENCE_MS)
    in_time(page, "window.jupyterapp.restored.then(() => true)")
    page.locator("#jupyterlab-splash").wait_for(state="detached", timeout=PATIENCE_MS)
    return page


def plugins(page: Page) -> list[str]:
    """The ids of all plugins that the page has activated."""
    found = page.evaluate(
        "() => window.jupyterapp.listPlugins()"
        ".filter(id => window.jupyterapp.isPluginActivated(id))"
    )
    return [str(one) for one in found]


def kernel_status(page: Page) -> str | None:
    """The status of the kernel of the notebook or console in front; None where it has none."""
    found = page.evaluate(_KERNEL_STATUS)
    return None if found is None else str(found)


def wait_for_kernel(page: Page, status: str = "idle") -> None:
    """Wait until the kernel of the notebook in front has a status."""
    page.wait_for_function(
        f"wanted => ({_KERNEL_STATUS})() === wanted", arg=status, timeout=PATIENCE_MS
    )


def cell(page: Page, number: int) -> Locator:
    """A cell of the notebook in front, counted from 0."""
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell").nth(number)


def run_cell(page: Page, number: int) -> Locator:
    """Run a cell as a person does: a click into it and Shift+Enter; the place of its output.

    Waits for its end: until then its kernel is in use, whatever it has shown already.
    """
    one = cell(page, number)
    one.locator(".cm-content").click(timeout=PATIENCE_MS)
    page.keyboard.press("Shift+Enter")
    ended = re.compile(r"^\[\d+\]:")
    expect(one.locator(".jp-InputArea-prompt")).to_have_text(ended, timeout=PATIENCE_MS)
    return one.locator(".jp-OutputArea-output")


def expect_text(where: Locator, text: str | re.Pattern[str]) -> None:
    """Wait until an element has a text."""
    expect(where.first).to_contain_text(text, timeout=PATIENCE_MS)


def assert_accessible(page: Page, selector: str, *, ignore: tuple[str, ...] = ()) -> None:
    """Hold what a selector finds against axe-core's rules.

    ``ignore`` names rules that are not ours to keep in that place; give the reason beside it.
    """
    assert page.locator(selector).count() > 0, f"nothing there to check: {selector}"
    assert _AXE.is_file(), "axe-core is not installed; run: make labextension/node_modules"
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(_AXE.read_text("utf-8"))
    rules = {rule: {"enabled": False} for rule in ignore}
    found = page.evaluate(
        "([where, rules]) => window.axe.run(where, {rules, resultTypes: ['violations']})",
        [selector, rules],
    )
    assert not found["violations"], violations_in_words(found["violations"])


def assert_readable(page: Page) -> None:
    """Hold a whole page against them, light and dark, at widths at which it has to fit."""
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 900})
        wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, f"at {width} px it has to be scrolled sideways"
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert_accessible(page, "html")


def violations_in_words(violations: list[dict[str, Any]]) -> str:
    """One paragraph for each rule: what it wants, and every element that breaks it."""
    lines = []
    for rule in violations:
        lines.append(f"{rule['id']} ({rule['impact']}): {rule['help']}")
        for node in rule["nodes"]:
            where = " ".join(str(part) for part in node["target"])
            why = "; ".join(
                line.strip() for line in node["failureSummary"].splitlines()[1:] if line.strip()
            )
            lines += [f"    {where}: {why}", f"        {node['html'][:200]}"]
    return "\n".join(lines)
