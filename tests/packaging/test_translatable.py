"""Every text of the page can be found by the tool that extracts texts for translators."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "labextension" / "src"
#: What ``jupyterlab-translate extract`` knows as a bundle of texts; ``lab`` has JupyterLab's own.
_BUNDLES = {"trans", "this._trans", "lab"}
_CALL = re.compile(r"([\w.]+)\.(?:__|_n|_p|_np)\(\s*(\S)")


def sources() -> list[Path]:
    return [path for path in sorted(SOURCES.rglob("*.ts*")) if "__tests__" not in path.parts]


def unknown(source: str) -> list[str]:
    """Calls with a text that the tool does not find: of another name, or without a literal."""
    calls = [(match[0], match[1], match[2]) for match in _CALL.finditer(source)]
    return [
        call for call, bundle, first in calls if bundle not in _BUNDLES or first not in ("'", '"')
    ]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_each_text_is_found(path: Path) -> None:
    assert unknown(path.read_text("utf-8")) == []


def test_what_is_not_found_is_seen() -> None:
    assert unknown("_trans.__('Give Back')") == ["_trans.__('"]
    assert unknown("trans.__(text)") == ["trans.__(t"]
    assert unknown("this._trans._n('%1 GPU', '%1 GPUs', 2)") == []


def test_there_are_texts_at_all() -> None:
    assert sum(len(_CALL.findall(path.read_text("utf-8"))) for path in sources()) > 100
