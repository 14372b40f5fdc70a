"""What ``doctor`` says about JupyterLab and Notebook: their versions, and our part of the page."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from jupyter_core.paths import jupyter_path
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ..engines.base import Finding

__all__ = ["about_page", "of_application", "of_extension", "supported"]

_DISTRIBUTION = "jupyter-gpu-share"
_EXTENSION = "jupyter-gpu-share"
_APPLICATIONS = {"jupyterlab": "JupyterLab", "notebook": "Notebook"}
_AGAIN = "pip install --force-reinstall --no-deps jupyter-gpu-share"


def about_page() -> Iterator[Finding]:
    """The applications that are installed, then our extension in them."""
    found = {name: text for name in _APPLICATIONS if (text := _version(name))}
    if not found:
        yield Finding(
            "note",
            "JupyterLab is not installed: kernels have shares, but no page shows them.",
            "pip install 'jupyter-gpu-share[lab]'",
        )
        return
    allowed = supported()
    for name, text in found.items():
        yield of_application(name, text, allowed.get(name, SpecifierSet()))
    yield of_extension(_built(), _disabled())


def supported() -> dict[str, SpecifierSet]:
    """The versions that the page supports, by application: what the extra ``lab`` asks for."""
    wanted = map(Requirement, requires(_DISTRIBUTION) or ())
    return {
        one.name: one.specifier
        for one in wanted
        if one.name in _APPLICATIONS and one.marker and one.marker.evaluate({"extra": "lab"})
    }


def of_application(name: str, text: str, allowed: SpecifierSet) -> Finding:
    """Whether a version of an application is one that the page supports.

    Parameters
    ----------
    name: of its distribution.
    text: its version.
    """
    called = f"{_APPLICATIONS[name]} {text}"
    if allowed.contains(text, prereleases=True):
        return Finding("ok", f"{called} is supported.")
    return Finding(
        "warning",
        f"{called} is not supported: the page may lack parts. Supported is {allowed}.",
        f"pip install '{name}{allowed}'",
    )


def of_extension(built: str | None, disabled: Collection[str]) -> Finding:
    """Whether JupyterLab loads our part of the page.

    Parameters
    ----------
    built: version of the extension where Jupyter looks for it; None where it is not there.
    disabled: names of extensions and of plugins that somebody has switched off.
    """
    if built is None:
        return Finding("warning", "JupyterLab does not find the page's extension.", _AGAIN)
    if _EXTENSION in disabled:
        return Finding(
            "warning",
            "The page's extension is switched off.",
            f"jupyter labextension enable {_EXTENSION}",
        )
    parts = sorted(name for name in disabled if name.startswith(f"{_EXTENSION}:"))
    if parts:
        return Finding(
            "note",
            f"Parts of the page are switched off: {', '.join(parts)}.",
            f"jupyter labextension enable {parts[0]}",
        )
    return Finding("ok", f"JupyterLab finds the page's extension {built}.")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _built() -> str | None:
    for folder in jupyter_path("labextensions"):
        try:
            package = json.loads((Path(folder) / _EXTENSION / "package.json").read_bytes())
            return str(package["version"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _disabled() -> list[str]:
    """What the pages of this environment do not load."""
    try:
        from jupyterlab_server.config import get_page_config

        config = get_page_config(jupyter_path("labextensions"))
    except Exception:  # another extension's files are damaged: JupyterLab says so itself
        return []
    return list(config.get("disabledExtensions", ()))
