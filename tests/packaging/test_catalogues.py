"""The translators' files have every text, and JupyterLab is given what they say."""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from jupyterlab_server import translation_utils

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import catalogues

LANGUAGES = [path.parents[1].name for path in catalogues.languages()]
_PLACEHOLDER = re.compile(r"%\d")


def test_the_template_has_every_text_of_the_page() -> None:
    made = catalogues.written(catalogues.template())
    assert catalogues.TEMPLATE.read_text("utf-8") == made, "run scripts/catalogues.py"


def test_german_and_japanese_are_there() -> None:
    assert LANGUAGES == ["de_DE", "ja_JP"]


@pytest.fixture(params=LANGUAGES)
def path(request: pytest.FixtureRequest) -> Path:
    return catalogues.LOCALE / request.param / "LC_MESSAGES" / f"{catalogues.DOMAIN}.po"


def test_each_text_is_translated_with_its_values(path: Path) -> None:
    catalog = catalogues.read(path)
    told = {(message.id, message.context) for message in catalogues.template() if message.id}
    assert told == {(message.id, message.context) for message in catalog if message.id}
    for message in catalog:
        if not message.id:
            continue
        assert catalogues.translated(message) and not message.fuzzy, message.id
        ids = message.id if message.pluralizable else (message.id,)
        strings = message.string if message.pluralizable else (message.string,)
        wanted = set(_PLACEHOLDER.findall(ids[-1]))
        for string in strings:
            # One of several forms may have its number in words.
            assert set(_PLACEHOLDER.findall(string)) <= wanted, string
        assert set(_PLACEHOLDER.findall(strings[-1])) == wanted, message.id


def test_what_jupyterlab_reads_is_made_of_the_translation(path: Path) -> None:
    made = catalogues.compiled(catalogues.updated(catalogues.read(path), catalogues.template()))
    assert path.with_suffix(".json").read_text("utf-8") == made, "run scripts/catalogues.py"
    # The page looks texts up by the name that browsers have for the language.
    assert json.loads(made)[""]["language"] == path.parents[1].name.replace("_", "-")


def test_a_plural_of_a_language_with_one_form_is_used_as_one() -> None:
    # JupyterLab's page looks for more than one string where a text has a plural.
    path = catalogues.LOCALE / "ja_JP" / "LC_MESSAGES" / f"{catalogues.DOMAIN}.json"
    found = json.loads(path.read_text("utf-8"))
    assert len(found["%1 kernel waits."]) > 1
    assert len(found["Keep"]) == 1


def test_jupyterlab_takes_it_where_the_language_is_installed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real lookup of its server, and the entry point as the package declares it."""
    locale = path.parents[1].name
    pack = tmp_path / f"pack_{locale}"
    pack.mkdir()
    (pack / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    declared = (catalogues.ROOT / "pyproject.toml").read_text("utf-8")
    _, _, section = declared.partition('[project.entry-points."jupyterlab.locale"]\n')
    ours = dict(re.findall(r'^(\w+) = "([\w.]+)"$', section.partition("\n[")[0], re.MULTILINE))
    groups: dict[str, list[EntryPoint]] = {
        "jupyterlab.locale": [
            EntryPoint(name, value, "jupyterlab.locale") for name, value in ours.items()
        ],
        "jupyterlab.languagepack": [EntryPoint(locale, pack.name, "jupyterlab.languagepack")],
    }

    def entry_points(group: str) -> Any:
        return groups[group]

    monkeypatch.setattr(translation_utils, "entry_points", entry_points)
    found, message = translation_utils.get_language_pack(locale)
    assert not message
    assert found[catalogues.DOMAIN]["Keep"] == [{"de_DE": "Behalten", "ja_JP": "保持"}[locale]]
    # Without the language itself, JupyterLab does not ask for ours.
    groups["jupyterlab.languagepack"] = []
    assert translation_utils.get_language_pack(locale)[0] == {}


def test_texts_are_found_in_every_form() -> None:
    source = (
        "trans.__('One'); this._trans._n('%1 kernel', '%1 kernels', n);\n"
        "trans.__(\n  'It\\'s',\n  x\n); trans._p('menu', \"Go\")\n"
    )
    found = list(catalogues.texts_of(source, "x.ts"))
    assert [(text.one, text.many, text.context) for text in found] == [
        ("One", None, None),
        ("%1 kernel", "%1 kernels", None),
        ("It's", None, None),
        ("Go", None, "menu"),
    ]


@pytest.mark.parametrize("source", ["trans.__(text)", "trans.__('a' + b)", "trans.__(`a`)"])
def test_a_text_that_is_no_literal_is_a_fault(source: str) -> None:
    with pytest.raises(ValueError, match=r"x\.ts:1"):
        list(catalogues.texts_of(source, "x.ts"))
