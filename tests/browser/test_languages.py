"""The page in other languages: whole, and with room for longer words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from labs import allocation_of, write_notebook
from languages import PSEUDO, lengthened, set_language, speak
from pages import Heard, in_time, open_lab, wait_for_kernel
from parts import dialog, execute, granted, open_sidebar, sidebar, toolbar
from playwright.sync_api import Page, Route, expect
from servers import Server

from jupyter_gpu_share.sentences import paragraph, say, sentences_of

GIB = 2**30
OURS = re.compile(r"/gpu-share/(allocations|status)(\?|$)")

#: Texts of ours that are shown or heard, as [where, text] of each; what is a name is left out.
TEXTS = """
selector => {
  const found = [];
  const seen = element => element.checkVisibility({ visibilityProperty: true });
  for (const root of document.querySelectorAll(selector)) {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const owner = walker.currentNode.parentElement;
      if (seen(owner) && owner.closest('bdi, svg title') === null) {
        found.push([owner.className || owner.tagName, walker.currentNode.textContent]);
      }
    }
    for (const each of [root, ...root.querySelectorAll('*')]) {
      for (const name of ['aria-label', 'title', 'placeholder', 'aria-valuetext']) {
        const text = each.getAttribute(name);
        if (text && seen(each) && each.closest('bdi') === null) {
          found.push([`${name} of ${each.className}`, text]);
        }
      }
    }
  }
  return found;
}
"""

#: What is wider than its room: [where, text] of each. A text may be shortened where it, or what it
#: is in, has a title that says it.
TOO_WIDE = """
selector => {
  const found = [];
  for (const root of document.querySelectorAll(selector)) {
    const room = root.getBoundingClientRect();
    for (const each of [root, ...root.querySelectorAll('*')]) {
      const box = each.getBoundingClientRect();
      const style = getComputedStyle(each);
      if (!each.checkVisibility() || box.width === 0 || each.closest('svg') !== null) {
        continue;
      }
      const text = each.textContent.trim();
      let told = false;
      for (let at = each; at !== null && root.contains(at); at = at.parentElement) {
        told ||= Boolean(at.getAttribute('title'));
      }
      if (box.left < room.left - 1 || box.right > room.right + 1) {
        found.push([`out: ${each.className || each.tagName}`, text]);
      } else if (
        text && each.scrollWidth > each.clientWidth + 1 && style.display !== 'inline' &&
        style.overflowX !== 'visible' && !(style.textOverflow === 'ellipsis' && told)
      ) {
        found.push([`cut: ${each.className || each.tagName}`, text]);
      }
    }
  }
  return found;
}
"""

PARTS = {
    "sidebar": ".jp-GpuShare-sidebar",
    "status_bar": ".jp-GpuShare-status",
}
TOOLBAR = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-GpuShare-toolbar"


@pytest.fixture(scope="module")
def simulate() -> str:
    return "2xA100-80GB"


@pytest.fixture(autouse=True)
def english_again(lab_of_file: Server) -> Iterator[None]:
    """The next test of the file begins without a language."""
    yield
    set_language(lab_of_file, None)


def moment(minutes: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(minutes=minutes)).isoformat()


def told(text: str) -> dict[str, Any]:
    return {"reason": text, "reason_sentences": sentences_of(text)}


def kernels(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The own kernel, which idles, and one of each other state."""
    idle = paragraph(
        say("unused-without-use", since=datetime.now(timezone.utc), use=0.0),
        say("seldom-soon-here", usual=1800.0, after=180.0),
    )
    share = own["share"]
    waits = say("needs-room", need=80 * GIB, room=20 * GIB, whole=80 * GIB)
    kept = {"how": "snapshot", "lost": []}
    return [
        {
            **own,
            **told(idle),
            "state": "idle",
            "idle_since": moment(-3),
            "next": {"action": "release", "at": moment(30)},
            "kept": kept,
        },
        row(1, state="queued", size="1", queue={"position": 1, "of": 1}, **told(waits)),
        row(2, state="failed", **told(say("no-room", size="3/4"))),
        row(3, state="released", kept=kept, **told(say("kept-until-next-cell"))),
        row(4, share=share, used_bytes=3 * GIB),
        row(5, state="releasing", share=share, **told(say("saving-of", done=GIB, time=4.0))),
        row(6, size="0"),
    ]


def row(number: int, **changes: Any) -> dict[str, Any]:
    return allocation_of(f"00000000-0000-4000-8000-{number:012d}", **changes)


def opened(lab: Server, page: Page, language: str) -> None:
    """A notebook with the sidebar, among kernels that this test does not run."""
    speak(page, lab, language)
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    own = granted(lab, "one.ipynb")
    status = {**lab.ok("gpu-share/status"), "queue": 1, "next_release": moment(30)}

    def fulfil(route: Route) -> None:
        found: Any = kernels(own) if "/allocations" in route.request.url else status
        route.fulfill(content_type="application/json", body=json.dumps(found))

    page.route(OURS, fulfil)
    execute(page, "gpu-share:show")
    page.locator(PARTS["sidebar"]).wait_for()
    # What an answer says, not what the kernel has told since its start.
    expect(page.locator(".jp-GpuShare-row")).to_have_count(7)


def untranslated(texts: list[list[str]]) -> list[list[str]]:
    """Those that have words which stand in no bracket, but for names, sizes and units."""
    names = re.compile(
        r"[\w-]+\.ipynb|kernel-\d+|\bone\b|A100-80GB|\d+g\.\d+gb|[GM]iB|JupyterLab"
        r"|\(simulated\)|Python 3 \(ipykernel\)|\b\d\d?:\d\d [AP]M\b"
    )
    found = []
    for where, text in texts:
        left = text
        while (inner := re.sub(r"\[[^\[\]]*\]", "", left)) != left:
            left = inner
        if re.search(r"[^\W\d_]{2,}", names.sub("", left)):
            found.append([where, text])
    return found


def test_a_text_that_is_in_no_bracket_is_seen() -> None:
    good = [["", "[Îdlé ôñé [4 ö]]"], ["", "¼ · 20 GiB"], ["", "one.ipynb"]]
    assert untranslated(good) == []
    bad = [["", "Idle"], ["", "[Îdlé] for 4"]]
    assert untranslated(bad) == bad
    assert len(lengthened("Give the share back to others")) >= 1.4 * 29


@pytest.mark.parametrize("width", [1280, 800])
def test_longer_words_have_room_and_nothing_stays_english(
    lab: Server, page: Page, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    opened(lab, page, PSEUDO)
    host = lab.ok("gpu-share/status")["gpus"][0]["node"]
    english, wide = look(page, host, **PARTS)
    if width > 1000:
        # In 800 pixels, beside the sidebar, Lab has no room for the toolbar's last items.
        toolbar(page).dispatch_event("click")
        page.locator(".lm-Menu").first.wait_for()
        for found in (
            look(page, host, toolbar=TOOLBAR),
            (look(page, host, menu=".lm-Menu")[0], {}),
        ):
            english, wide = english | found[0], wide | found[1]
        page.keyboard.press("Escape")
    execute(page, "gpu-share:change-size")
    dialog(page).wait_for()
    field = ".jp-Dialog-header, .jp-Dialog .jp-GpuShare-sizeField"
    english |= look(page, host, dialog=field)[0]
    wide |= look(page, host, dialog=".jp-Dialog-content")[1]
    assert (english, wide) == ({}, {})


def look(page: Page, host: str, **parts: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of each part is not translated, and what has no room."""
    english, wide = {}, {}
    for name, selector in parts.items():
        texts = [
            [where, text.replace(host, "")] for where, text in in_time(page, call(TEXTS, selector))
        ]
        assert texts, f"{name} says nothing"
        if left := untranslated(texts):
            english[name] = left
        if found := in_time(page, call(TOO_WIDE, selector)):
            wide[name] = found
    return english, wide


def call(function: str, selector: str) -> str:
    return f"({function})({json.dumps(selector)})"


SHOWN = {
    "de_DE": [
        "Dieses Notebook",
        "Dieses Notebook pausiert gewöhnlich 30 min; nach 3 min geht es selten bald weiter.",
        "Er braucht 80 GiB einer GPU; die leerste hat 20 GiB von 80 GiB frei.",
    ],
    "ja_JP": [
        "このノートブック",
        "このノートブックの休止は通常 30 分です。3 分を過ぎると、すぐに再開されることはまれです。",
        "1 つの GPU に 80 GiB 必要です。最も空いている GPU の空きは 80 GiB 中 20 GiB です。",
    ],
}


@pytest.mark.parametrize("language", SHOWN)
def test_what_the_server_says_is_said_in_the_language_of_the_page(
    lab: Server, page: Page, language: str
) -> None:
    opened(lab, page, language)
    title, why, waits = SHOWN[language]
    panel = page.locator(PARTS["sidebar"])
    expect(panel).to_contain_text(title)
    expect(panel).to_contain_text(why)
    expect(panel.locator(f'li[title="{waits}"]')).to_have_count(1)
    assert in_time(page, call(TOO_WIDE, PARTS["sidebar"])) == []


def test_a_refusal_is_said_in_the_language_of_the_page(
    lab: Server, page: Page, heard: Heard
) -> None:
    heard.allow("400")
    speak(page, lab, "de_DE")
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    granted(lab, "one.ipynb")
    execute(page, "gpu-share:change-size")
    field = dialog(page).get_by_label("GPU-Anteil")
    field.select_option("other")
    dialog(page).get_by_label("Andere Größe").fill("3/2")
    dialog(page).locator(".jp-mod-accept").click()
    expect(dialog(page)).to_contain_text("3/2 ist mehr als eine GPU; die größte Größe ist hier 1")


def test_in_english_nothing_is_asked_of_a_catalogue(lab: Server, page: Page) -> None:
    write_notebook(lab, "one.ipynb", "1")
    open_lab(page, lab, "one.ipynb")
    wait_for_kernel(page)
    open_sidebar(page)
    expect(sidebar(page)).to_contain_text("This notebook")
