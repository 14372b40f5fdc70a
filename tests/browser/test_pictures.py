"""The pictures of README and docs, from the real page: ``make pictures`` keeps the best of them.

Where a picture needs more kernels or other GPUs than this machine runs, they are a FAKE.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from broker_users import user
from holders import Holder, hub_of_cluster
from hubs import ANN, BOB, CAT, UIDS, running_hub
from labs import write_notebook
from pages import (
    Heard,
    cell,
    in_time,
    open_lab,
    open_notebook7,
    restored,
    run_cell,
    wait_for_kernel,
)
from parts import choose, execute, granted, open_sidebar, sidebar, toolbar
from PIL import Image  # matplotlib brings it
from playwright.sync_api import Page, expect
from pretending import gpu, moment, pretend, row, share, thirty
from servers import Server, until

from jupyter_gpu_share.broker.client import DEFAULT_SOCKET

ROOT = Path(__file__).parents[2]
#: All pictures, to be looked at, and those that the docs show: kept only when that is asked for.
FOLDER = ROOT / "build" / "browser" / "pictures"
DOCS = ROOT / ("docs/images" if os.environ.get("JUPYTER_GPU_SHARE_PICTURES") else "build/browser")

GIB = 2**30
#: A theme stays for the next page: light is the last.
THEMES = {
    "dark": "JupyterLab Dark",
    "contrast": "JupyterLab Dark High Contrast",
    "light": "JupyterLab Light",
}
WIDTHS = (1280, 800)
#: The sidebars that the README shows, each in a theme.
SHOWN = {
    "queue": "light",
    "warning": "light",
    "released": "dark",
    "thirty": "light",
    "failed": "contrast",
}

CELL = """\
from gpu_share_kernel import simulated

held = simulated.allocate("14GiB")
print(f"holds {simulated.memory()[0] / 2**30:.0f} GiB")"""

#: Nothing moves, and what was asked for is drawn.
_DRAWN = """
document.fonts.ready.then(() => new Promise(resolve =>
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(resolve, 300, true)))))
"""


@pytest.fixture(scope="module")
def simulate() -> str:
    return "2xA100-80GB"


def past(released: bool = False) -> dict[str, Any]:
    """An hour of a kernel that trains, pauses and trains again."""
    begin = datetime.now(timezone.utc) - timedelta(minutes=60)
    used = [int((4 + 10 * min(1, n % 120 / 60)) * GIB) for n in range(240)]
    use = [(0.85 if 30 < n % 120 < 100 else 0.1) for n in range(240)]
    gone = (begin + timedelta(minutes=20), begin + timedelta(minutes=31))
    spans: list[dict[str, Any]] = [
        {"begin": begin.isoformat(), "end": gone[0].isoformat(), "ended_by": "release"},
        {"begin": gone[1].isoformat(), "end": None, "ended_by": None},
    ]
    for n in range(80, 124):
        used[n], use[n] = 0, 0.0
    if released:
        spans[1] |= {"end": moment(-4), "ended_by": "release"}
        used[224:], use[224:] = [0] * 16, [0.0] * 16
    return {
        "now": moment(0),
        "held_since": None if released else gone[1].isoformat(),
        "gpu_hours": 0.2,
        "returned_gpu_hours": 0.05,
        "spans": [{**span, "memory_bytes": 20 * GIB} for span in spans],
        "samples": {
            "begin": begin.isoformat(),
            "interval": 15,
            "used_bytes": used,
            "utilization": use,
        },
    }


def a100(uuid: str, free: int) -> dict[str, Any]:
    return {**gpu(uuid, free), "model": "NVIDIA A100-80GB", "memory_bytes": 80 * GIB}


def mine(kernel_id: str, **changes: Any) -> dict[str, Any]:
    """The kernel of the notebook in front, which holds a quarter unless that is changed."""
    held = share(20, "1/4", "G0")
    devices = [{**each, "model": "NVIDIA A100-80GB"} for each in held["devices"]]
    usual = {
        "path": "train.ipynb",
        "share": {**held, "devices": devices},
        "used_bytes": 14 * GIB,
        "utilization": 0.85,
    }
    return {**row(0, **{**usual, **changes}), "kernel_id": kernel_id}


@dataclass
class View:
    """What the page is made to see.

    Attributes
    ----------
    rows: of the kernels, by the id of the notebook's own.
    status: of the machine.
    shows: a text that is there once the page is as it shall be.
    """

    rows: Callable[[str], list[dict[str, Any]]]
    shows: str
    status: dict[str, Any] = field(default_factory=dict)
    past: dict[str, Any] | None = None


OTHER = row(2, path="eda.ipynb", size="1/2", share=share(40, "1/2", "G1"), used_bytes=6 * GIB)
GPUS = [a100("G0", 60), a100("G1", 40)]
IN_QUEUE = {"share": None, "used_bytes": None, "utilization": None}
VIEWS = {
    "empty": View(
        lambda _: [], "No kernel of yours has a share.", {"gpus": [a100("G0", 80), a100("G1", 80)]}
    ),
    "one": View(lambda id_: [mine(id_)], "14 of 20 GiB", {"gpus": GPUS}, past()),
    "thirty": View(
        lambda id_: [mine(id_), *thirty()],
        "31 · 80 GiB held",
        {"gpus": [a100("G0", 0)], "queue": 10},
        past(),
    ),
    "queue": View(
        lambda id_: [
            mine(
                id_,
                state="queued",
                size="1/2",
                queue={"position": 1, "of": 2},
                reason="It needs 40 GiB of one GPU; the emptiest has 20 GiB of 80 GiB free.",
                **IN_QUEUE,
            ),
            OTHER,
        ],
        "2 kernels wait.",
        {"gpus": [a100("G0", 20), a100("G1", 20)], "queue": 2, "next_release": moment(4)},
    ),
    "warning": View(
        lambda id_: [
            mine(
                id_,
                state="idle",
                idle_since=moment(-4),
                next={"action": "release", "at": moment(20)},
                kept={"how": "in-place", "lost": []},
                utilization=0,
            ),
            OTHER,
        ],
        "Goes back in",
        {"gpus": GPUS},
        past(),
    ),
    "released": View(
        lambda id_: [
            mine(
                id_,
                state="released",
                idle_since=moment(-9),
                kept={"how": "snapshot", "lost": ["generator `batches`"]},
                **IN_QUEUE,
            ),
            OTHER,
        ],
        "Run a cell to take the share back.",
        {"gpus": [a100("G0", 80), a100("G1", 40)]},
        past(released=True),
    ),
    "failed": View(
        lambda id_: [
            mine(
                id_,
                state="failed",
                reason="No GPU here has a MIG profile; choose another size.",
                **IN_QUEUE,
            ),
            OTHER,
        ],
        "The kernel has no share:",
        {"gpus": GPUS},
    ),
    "no-gpu": View(
        lambda _: [],
        "No NVIDIA GPU was found",
        {"problem": "No NVIDIA GPU was found on this machine."},
    ),
    "no-rights": View(lambda _: [], "You may not see GPU shares on this server."),
}


def dressed(page: Page, theme: str, width: int) -> None:
    """Give the page a theme and a width."""
    page.set_viewport_size({"width": width, "height": 800})
    execute(page, "apputils:change-theme", theme=THEMES[theme])
    page.locator(f"body[data-jp-theme-name='{THEMES[theme]}']").wait_for(state="attached")
    in_time(page, _DRAWN)


def taken(page: Page, name: str) -> None:
    """Keep a picture; one of a page that shows nothing is smaller."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=FOLDER / f"{name}.png")
    assert (FOLDER / f"{name}.png").stat().st_size > 10_000


def make_small(picture: Path) -> None:
    """Have a picture of the docs take less: a page has few colours."""
    with Image.open(picture) as found:
        few = found.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


@pytest.mark.parametrize("name", VIEWS)
def test_each_view_in_each_theme_and_width(
    lab: Server, page: Page, heard: Heard, name: str
) -> None:
    heard.allow("403")
    view = VIEWS[name]
    write_notebook(lab, "train.ipynb", CELL)
    write_notebook(lab, "eda.ipynb", "1")
    page.emulate_media(reduced_motion="reduce")
    open_lab(page, lab, "train.ipynb", workspace=f"pictures-{name}")
    wait_for_kernel(page)
    open_sidebar(page)
    run_cell(page, 0)
    execute(page, "docmanager:save")
    pretend(page, view.rows(granted(lab, "train.ipynb")["kernel_id"]), view.past, **view.status)
    if name == "no-rights":
        refused = {"status": 403, "json": {"message": "You may not.", "reason": None}}
        page.route(re.compile(r"/gpu-share/"), lambda route: route.fulfill(**refused))
    page.evaluate("() => { window.jupyterapp.commands.execute('filebrowser:hide-main') }")
    in_time(page, "window.jupyterapp.serviceManager.workspaces.list().then(() => true)")
    page.reload()
    restored(page)
    cell(page, 0).wait_for()
    open_sidebar(page)
    expect(sidebar(page)).to_contain_text(view.shows)
    for theme in THEMES:
        for width in WIDTHS:
            dressed(page, theme, width)
            assert sidebar(page).evaluate("one => one.scrollWidth <= one.clientWidth")
            taken(page, f"{name}-{theme}-{width}")
            if SHOWN.get(name) == theme and width == WIDTHS[0]:
                DOCS.mkdir(parents=True, exist_ok=True)
                # A message would lie over the panel that this is a picture of.
                alone = ".Toastify { display: none; }"
                sidebar(page).screenshot(path=DOCS / f"{name}.png", style=alone)
                make_small(DOCS / f"{name}.png")


def test_the_tree_and_a_notebook_of_notebook_7(notebook7: Server, page: Page) -> None:
    write_notebook(notebook7, "train.ipynb", CELL)
    open_notebook7(page, notebook7, "train.ipynb")
    wait_for_kernel(page)
    run_cell(page, 0)
    open_sidebar(page)
    expect(sidebar(page)).to_contain_text("14 of 20 GiB")
    for theme in THEMES:
        dressed(page, theme, 1280)
        taken(page, f"notebook7-{theme}")
    open_notebook7(page, notebook7)
    page.get_by_role("tab", name="Running").click()
    expect(page.locator("#jp-running-sessions-tree")).to_contain_text("GPU ¼ · 20 GiB")
    in_time(page, _DRAWN)
    taken(page, "notebook7-tree")


def test_a_notebook_with_its_share_and_the_sidebar(lab: Server, page: Page) -> None:
    write_notebook(lab, "train.ipynb", CELL)
    write_notebook(lab, "eda.ipynb", "1")
    for size in ("1/2", "3/4"):
        lab.start_kernel(size)
    open_lab(page, lab, "eda.ipynb")
    wait_for_kernel(page)
    choose(page, "1/2")
    expect(toolbar(page)).to_contain_text("½")
    page.evaluate("() => { window.jupyterapp.commands.execute('filebrowser:hide-main') }")
    open_lab(page, lab, "train.ipynb")
    wait_for_kernel(page)
    panel = open_sidebar(page)
    run_cell(page, 0)
    expect(panel).to_contain_text("14 of 20 GiB")
    DOCS.mkdir(parents=True, exist_ok=True)
    picture = DOCS / "lab.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size > 10_000
    make_small(picture)


def test_the_machine_behind_a_hub(page: Page) -> None:
    with running_hub() as hub, ExitStack() as stack:
        entered = (user(UIDS[name], Path(DEFAULT_SOCKET), *hub.inside) for name in (ANN, BOB))
        ann, bob = (stack.enter_context(each) for each in entered)
        ann.claim("a", "1/2", info={"path": "course/train.ipynb"})
        bob.claim("b", "1/4", info={"path": "eda.ipynb"})
        bob.claim("c", "1/2", info={"path": "segment.ipynb"})
        bob.ok("PUT", "/v1/idle", {"kernels": {"b": 700.0}})
        page.set_extra_http_headers({"Authorization": f"token {hub.token(CAT)}"})
        page.set_viewport_size({"width": 800, "height": 700})
        page.goto(hub.page)
        expect(page.get_by_text("segment.ipynb (1/2) waits for it.")).to_be_visible()
        in_time(page, _DRAWN)
        DOCS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=DOCS / "hub-page.png")
        make_small(DOCS / "hub-page.png")


@pytest.mark.cluster
@pytest.mark.timeout(1500)
def test_the_cluster_behind_a_hub(cluster: Any, page: Page) -> None:
    with hub_of_cluster(cluster) as hub, ExitStack() as stack:
        hub.start_broker()
        servers = (("ann", ""), ("ann", "lab"), ("bob", ""), ("cem", ""))
        alive = (Holder.alive(hub, *each) for each in servers)
        ann, lab, bob, cem = (stack.enter_context(each) for each in alive)
        lab.start("b", "1", "course/week-03/train-large.ipynb")
        ann.start("a", "1/2", "course/train.ipynb")
        bob.start("c", "1/4", "eda.ipynb")
        cem.start("d", "1/2", "segment.ipynb", "waiting")
        bob.gives, bob.idle["c"] = False, 700.0
        page.set_extra_http_headers({"Authorization": f"token {hub.token('root-of-hub')}"})
        page.goto(f"{hub.url}services/gpu-share/")
        until(lambda: reloaded(page, "segment.ipynb (1/2) waits for it."), "it is asked back")
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 780})
                in_time(page, _DRAWN)
                button = page.get_by_role("button", name="Ask back").first.bounding_box()
                assert button is not None and button["x"] + button["width"] <= width
                taken(page, f"cluster-{scheme}-{width}")
        DOCS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=DOCS / "cluster-page.png")
        make_small(DOCS / "cluster-page.png")
        hub.empty()


def reloaded(page: Page, text: str) -> bool:
    """Whether a page has a text, when it is loaded anew."""
    page.reload()
    return text in (page.text_content("main") or "")
