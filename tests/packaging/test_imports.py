"""The package's modules import each other in one direction.

Every import counts: of a module, of a function, and for types alone, since who needs the types of
another room knows that room.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import jupyter_gpu_share

PACKAGE = Path(jupyter_gpu_share.__file__).parent
NAME = PACKAGE.name
#: What is copied into kernels is a program of its own: it cannot import the package.
APART = PACKAGE / "kernel_side" / "gpu_share_kernel"
LOOSE = 8


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if APART not in path.parents
}


def imported(name: str, text: str, is_package: bool) -> Iterator[str]:
    """Modules of the package that one names in its import statements, wherever they stand."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *filter(None, [node.module])])
            # `from x import y` may name a module y, or what x has.
            deeper = [f"{base}.{alias.name}" for alias in node.names]
            targets = [one if one in MODULES else base for one in deeper]
        else:
            continue
        for target in targets:
            if target in MODULES and target != name:
                yield target
                yield from entered(name, target)


def entered(name: str, target: str) -> Iterator[str]:
    """The rooms that an import passes through to its target: their __init__ runs first."""
    parts = target.split(".")
    for length in range(2, len(parts)):
        room = ".".join(parts[:length])
        if room in MODULES and not f"{name}.".startswith(f"{room}."):
            yield room


def graph() -> dict[str, set[str]]:
    return {
        name: set(imported(name, path.read_text("utf-8"), path.name == "__init__.py"))
        for name, path in MODULES.items()
    }


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which reaches all others of its group."""
    reached: dict[str, set[str]] = {}
    for start in edges:
        found: set[str] = set()
        todo = list(edges[start])
        while todo:
            at = todo.pop()
            if at not in found:
                found.add(at)
                todo.extend(edges[at])
        reached[start] = found
    groups = {
        tuple(sorted(other for other in reached[one] if one in reached[other])) for one in edges
    }
    return sorted(list(group) for group in groups if group)


def test_the_reading_of_imports_sees_every_form() -> None:
    text = (
        f"import {NAME}.errors\n"
        "from ..relay import Relay\n"
        "from ..engines.base import Engine\n"
        "from . import _events\n"
        "from ._adopt import adopt_kernels\n"
        "if TYPE_CHECKING:\n    from ..size import Size\n"
        "def f():\n    from ..runtime import Runtime\n"
        "import json\n"
    )
    found = set(imported(f"{NAME}.server._x", text, is_package=False))
    assert found == {
        f"{NAME}.{name}"
        for name in (
            "errors",
            "relay",
            "engines.base",
            "engines",
            "server._events",
            "server._adopt",
            "size",
            "runtime",
        )
    }
    found = set(imported(f"{NAME}.server", "from ._app import GpuShareApp", is_package=True))
    assert found == {f"{NAME}.server._app"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]


def test_no_module_reaches_itself_by_imports() -> None:
    # A package's __init__ imports its own modules, and they import each other, never it.
    assert circles(graph()) == []


def test_few_modules_stand_outside_the_rooms() -> None:
    loose = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(loose) <= LOOSE, loose


@pytest.mark.parametrize("module", ["_handler", "_handlers"])
def test_the_handlers_know_neither_the_extension_nor_how_a_runtime_is_made(module: str) -> None:
    """They get both by the application's settings; the runtime's type is all that they name."""
    handlers = f"{NAME}.server.{module}"
    assert not {f"{NAME}.server._app", f"{NAME}.server"} & graph()[handlers]
    tree = ast.parse(MODULES[handlers].read_text("utf-8"))
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    run = set(imported(handlers, ast.unparse(tree), is_package=False))
    assert run, "the handlers import something"
    assert not [name for name in run if "runtime" in name or f"{NAME}.kernels" in name]
