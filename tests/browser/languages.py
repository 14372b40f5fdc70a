"""Pages in other languages: those that ship, and one that is made up of the English texts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from babel.messages.pofile import read_po
from playwright.sync_api import Page, Route
from servers import Server

import jupyter_gpu_share

LOCALE = Path(jupyter_gpu_share.__file__).parent / "locale"
DOMAIN = "jupyter_gpu_share"
#: The name that JupyterLab has for a made-up language.
PSEUDO = "ach_UG"

_TRANSLATIONS = re.compile(r"/api/translations/(\w+)")
_SETTING = "lab/user-settings/@jupyterlab/translation-extension/plugin.jupyterlab-settings"
_VALUE = re.compile(r"%\d")
_ACCENTS = str.maketrans("aceinouyACEINOUY", "áçéîñöüýÁÇÉÎÑÖÜÝ")


def speak(page: Page, server: Server, language: str) -> None:
    """Have the page speak a language as if its pack were installed.

    Only what the pack would bring is a FAKE: the texts are the package's own.
    """
    texts = pseudo() if language == PSEUDO else shipped(language)

    def translations(route: Route) -> None:
        asked = _TRANSLATIONS.search(route.request.url)
        data = {DOMAIN: texts} if asked is not None and asked[1] == language else {}
        route.fulfill(json={"data": data, "message": ""})

    page.route(_TRANSLATIONS, translations)
    set_language(server, language)


def set_language(server: Server, language: str | None) -> None:
    """Set the language of pages that are loaded from now on; None for the default."""
    path = server.folder.parent / "config" / _SETTING
    if language is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"locale": language}))


def shipped(language: str) -> dict[str, Any]:
    """What JupyterLab reads of a language."""
    path = LOCALE / language / "LC_MESSAGES" / f"{DOMAIN}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def pseudo() -> dict[str, Any]:
    """All texts in a language that is longer than English by two fifths, in brackets."""
    with (LOCALE / f"{DOMAIN}.pot").open("rb") as file:
        catalog = read_po(file)
    plural = "nplurals=2; plural=(n != 1);"
    found: dict[str, Any] = {
        "": {"domain": DOMAIN, "language": PSEUDO.replace("_", "-"), "plural_forms": plural}
    }
    for message in catalog:
        if message.id and not message.context:
            ids = message.id if message.pluralizable else (message.id,)
            found[ids[0]] = [lengthened(text) for text in ids]
    return found


def lengthened(text: str) -> str:
    """A text with accents, two fifths longer, in brackets."""
    words = _VALUE.sub("", text)
    more = " ".join(["one", "two", "three", "four", "five", "six", "seven", "eight"] * 4)
    return f"[{text.translate(_ACCENTS)} {more[: max(1, round(len(words) * 0.4))].strip()}]"
