"""Collect the page's texts for translators, and make of their work what JupyterLab reads.

``jupyter_gpu_share/locale/jupyter_gpu_share.pot`` has every text of ``labextension``;
``<language>/LC_MESSAGES/jupyter_gpu_share.po`` has the translations, and ``.json`` beside it is
made of that. Run without arguments: all of these are brought up to date, and what has no
translation yet is told. ``tests/packaging/test_catalogues.py`` fails where that was not done.

Texts are found as JupyterLab's own tool finds them: literals in calls of ``trans`` and
``this._trans``, which ``tests/packaging/test_translatable.py`` holds the sources to.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parents[1]
DOMAIN = "jupyter_gpu_share"
LOCALE = ROOT / "jupyter_gpu_share" / "locale"
TEMPLATE = LOCALE / f"{DOMAIN}.pot"

_CALL = re.compile(r"\b(?:this\._)?trans\.(__|_n|_p|_np)\(")
_LITERAL = re.compile(r"\s*(?:'((?:[^'\\\n]|\\.)*)'|\"((?:[^\"\\\n]|\\.)*)\")\s*([,)])")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)")
#: How many texts a call begins with, the context included.
_TEXTS = {"__": 1, "_n": 2, "_p": 2, "_np": 3}
#: What JupyterLab translates of a schema, by the name of the context that it looks it up in.
_SETTINGS = ("title", "description")


@dataclass(frozen=True)
class Text:
    """A text of the page, with where it stands."""

    place: str
    one: str
    many: str | None = None
    context: str | None = None


def texts(root: Path = ROOT) -> Iterator[Text]:
    """All texts of the page: those of its code, then those of its settings."""
    sources = root / "labextension" / "src"
    for path in sorted(sources.rglob("*.ts*")):
        if "__tests__" not in path.parts:
            yield from texts_of(path.read_text("utf-8"), path.relative_to(root).as_posix())
    for path in sorted((root / "labextension" / "schema").glob("*.json")):
        yield from texts_of_schema(
            json.loads(path.read_text("utf-8")), path.relative_to(root).as_posix()
        )


def texts_of(source: str, place: str) -> Iterator[Text]:
    """The texts of a module.

    Raises
    ------
    ValueError: a call has something else than a literal where a text has to be.
    """
    for call in _CALL.finditer(source):
        at, found = call.end(), []
        while len(found) < _TEXTS[call[1]]:
            literal = _LITERAL.match(source, at)
            if literal is None:
                line = source.count("\n", 0, call.start()) + 1
                raise ValueError(f"{place}:{line}: a text that is no literal cannot be translated.")
            found.append(_ESCAPE.sub(_unescaped, literal[1] or literal[2] or ""))
            at = literal.end()
        context = found.pop(0) if call[1] in ("_p", "_np") else None
        yield Text(place, *found, context=context)


def texts_of_schema(schema: dict[str, object], place: str) -> Iterator[Text]:
    """The texts of the settings of a plugin, as JupyterLab looks them up."""
    for name in _SETTINGS:
        if text := schema.get(name):
            yield Text(place, str(text), context="schema")
    if label := schema.get("jupyter.lab.setting-icon-label"):
        yield Text(place, str(label), context="settings")
    properties = schema.get("properties")
    for each in (properties if isinstance(properties, dict) else {}).values():
        for name in _SETTINGS:
            if text := each.get(name):
                yield Text(place, text, context="settings")


def _unescaped(escape: re.Match[str]) -> str:
    known = {"n": "\n", "t": "\t"}
    letter = escape[1]
    return chr(int(letter[1:], 16)) if len(letter) > 1 else known.get(letter, letter)


def template() -> Catalog:
    """All texts, without translations."""
    catalog = _catalog()
    for text in texts():
        key = text.one if text.many is None else (text.one, text.many)
        catalog.add(key, locations=[(text.place, 0)], context=text.context)
    return catalog


def updated(old: Catalog, new: Catalog) -> Catalog:
    """The texts of ``new`` with the translations that ``old`` has of them."""
    catalog = _catalog(str(old.locale))
    catalog.header_comment = old.header_comment
    for message in new:
        if message.id:
            known = old.get(message.id[0] if message.pluralizable else message.id, message.context)
            catalog.add(
                message.id,
                known.string if known is not None and known.id == message.id else None,
                locations=message.locations,
                context=message.context,
            )
    return catalog


def compiled(catalog: Catalog) -> str:
    """What JupyterLab reads."""
    version = json.loads((ROOT / "labextension" / "package.json").read_text("utf-8"))["version"]
    head = {
        "domain": DOMAIN,
        # As the page names it; under another name it finds nothing.
        "language": str(catalog.locale).replace("_", "-"),
        "plural_forms": catalog.plural_forms,
        "version": version,
    }
    found: dict[str, object] = {"": head}
    for message in catalog:
        if message.id and translated(message):
            one = message.id[0] if message.pluralizable else message.id
            strings = list(message.string) if message.pluralizable else [message.string]
            if message.pluralizable and len(strings) == 1:
                # Of a language with one form alone JupyterLab takes a list of one for a text
                # that has no plural, and does not use it.
                strings *= 2
            found[f"{message.context}\x04{one}" if message.context else str(one)] = strings
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def translated(message: Message) -> bool:
    """Whether a text has all its forms in the other language."""
    strings = message.string if message.pluralizable else [message.string]
    return bool(strings) and all(strings)


def languages() -> list[Path]:
    """The translations that are there."""
    return sorted(LOCALE.glob(f"*/LC_MESSAGES/{DOMAIN}.po"))


def read(path: Path) -> Catalog:
    """A translation."""
    with path.open("rb") as file:
        return read_po(file, locale=path.parents[1].name, domain=DOMAIN)


def written(catalog: Catalog) -> str:
    """A catalogue as a file. Neither times nor lines are in it, so only texts change it."""
    file = io.BytesIO()
    write_po(file, catalog, width=100, include_lineno=False, sort_by_file=True)
    lines = file.getvalue().decode().splitlines(keepends=True)
    times = ('"POT-Creation-Date', '"PO-Revision-Date', '"Generated-By', '"Last-Translator')
    return "".join(line for line in lines if not line.startswith(times))


def _catalog(locale: str | None = None) -> Catalog:
    catalog = Catalog(
        locale=locale,
        domain=DOMAIN,
        project="jupyter-gpu-share",
        version="",
        copyright_holder="The jupyter_gpu_share developers",
        msgid_bugs_address="https://github.com/jupyter-gpu-share/jupyter-gpu-share/issues",
        fuzzy=False,
    )
    catalog.header_comment = "# Texts of jupyter-gpu-share's page. Made by scripts/catalogues.py."
    return catalog


def main() -> int:
    """Bring all files up to date; 1 where something is not translated."""
    new = template()
    TEMPLATE.parent.mkdir(exist_ok=True)
    TEMPLATE.write_text(written(new), "utf-8")
    missing = 0
    for path in languages():
        catalog = updated(read(path), new)
        path.write_text(written(catalog), "utf-8")
        path.with_suffix(".json").write_text(compiled(catalog), "utf-8")
        for message in catalog:
            if message.id and not translated(message):
                missing += 1
                print(f"{path.relative_to(ROOT)}: {message.id!r} is not translated.")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
