"""Chromium, servers, and pages that fail a test when our part of them writes an error."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chromium import running_chromium
from installed import clone, install, make_wheel, readme_requirement
from labs import disable, empty, end_kernels, lab_server
from pages import PATIENCE_MS, Heard, log_in
from playwright.sync_api import Browser, BrowserContext, Page
from servers import Server

#: Where screenshots and logs of failed tests go.
FAILURES = Path(__file__).parents[2] / "build" / "browser"
_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every file here starts a browser."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Tell fixtures, before they end, whether their test has failed."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser, for all tests of a file.

    Not for longer: while Playwright runs, its event loop does, and tests elsewhere have their own.
    """
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def new_user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's first line makes of an empty environment, with a wheel of these sources."""
    folder = tmp_path_factory.mktemp("new-user")
    wheel = make_wheel(clone(folder, built=True), folder)
    return install(wheel, folder / "venv", readme_requirement())


@pytest.fixture(scope="module")
def simulate() -> str:
    """The GPUs of the servers; a file that needs others overrides this."""
    return "1xA100-80GB"


@pytest.fixture(scope="module")
def make_lab(
    new_user: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """Start servers as a test asks: ``make_lab(*arguments, app="jupyterlab", simulate=...)``.

    Each is a new user's, in a home of its own.
    """
    with ExitStack() as stack:

        def start(*arguments: str, **wishes: str) -> Server:
            folder = tmp_path_factory.mktemp("lab")
            return stack.enter_context(
                lab_server(folder, *arguments, environment=new_user, **wishes)
            )

        yield start


@pytest.fixture(scope="module")
def lab_of_file(make_lab: Callable[..., Server], simulate: str) -> Server:
    """JupyterLab's server, for all tests of a file; tests take ``lab``."""
    return make_lab("--GpuShareProvisioner.queue_patience=1.5", simulate=simulate)


@pytest.fixture(scope="module")
def notebook7_of_file(make_lab: Callable[..., Server], simulate: str) -> Server:
    """Notebook 7's server, for all tests of a file; tests take ``notebook7``."""
    return make_lab("--GpuShareProvisioner.queue_patience=1.5", simulate=simulate, app="notebook")


@pytest.fixture
def lab(lab_of_file: Server) -> Iterator[Server]:
    """JupyterLab's server, without kernels, files and disabled plugins before and after."""
    yield from _cleaned(lab_of_file)


@pytest.fixture
def notebook7(notebook7_of_file: Server) -> Iterator[Server]:
    """Notebook 7's server, without kernels, files and disabled plugins before and after."""
    yield from _cleaned(notebook7_of_file)


def _cleaned(server: Server) -> Iterator[Server]:
    yield server
    end_kernels(server)
    disable(server, {})
    empty(server)


@pytest.fixture
def heard() -> Heard:
    """What the consoles say; ``heard.allow(pattern)`` where an error is what a test provokes."""
    return Heard()


@pytest.fixture
def context(
    request: pytest.FixtureRequest, browser: Browser, heard: Heard
) -> Iterator[BrowserContext]:
    """A browser without a past, logged in to ``lab`` and ``notebook7`` where the test takes them.

    Every tab of it is listened to. When the test fails, pictures of all tabs, what their consoles
    said and the servers' logs are kept in ``build/browser``.
    """
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, locale="en-US", timezone_id="UTC"
    )
    context.set_default_timeout(PATIENCE_MS)
    context.set_default_navigation_timeout(PATIENCE_MS)
    heard.listen(context)
    try:
        for name in ("lab", "notebook7"):
            if name in request.fixturenames:
                log_in(context, request.getfixturevalue(name))
        yield context
        errors = heard.unexpected()
        if errors or request.node.stash.get(_FAILED, False):
            _keep(request.node, context, heard)
    finally:
        context.close()
    if errors:
        pytest.fail("the console has errors of ours:\n" + "\n".join(errors), pytrace=False)


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """An empty tab; for a second one, ``page.context.new_page()``."""
    return context.new_page()


def _keep(node: Any, context: BrowserContext, heard: Heard) -> None:
    folder = FAILURES / re.sub(r"[^\w.-]+", "-", node.name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, tab in enumerate(context.pages):
        try:
            tab.screenshot(path=folder / f"tab-{number}.png", timeout=5000)
        except Exception as error:
            heard.everything.append(f"no picture of tab {number}: {error}")
    (folder / "console.txt").write_text("\n".join(heard.everything))
    logs = {v.log: name for name, v in node.funcargs.items() if isinstance(v, Server)}
    for log, name in logs.items():
        shutil.copy(log, folder / f"{name}.log")
