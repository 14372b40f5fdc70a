"""Whatever refers to whatever in a namespace refers to it again in the next kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sessions import Session, Sessions

pytestmark = pytest.mark.slow

#: Makes objects from a description, and describes them again by what is the same as what.
CODE = """
import json, types
import numpy as np

class Thing:
    pass

def closure(inner):
    def function():
        return inner
    return function

def put(names, nodes, edges):
    for name in [name for name in globals() if name[:2] == 'x_']:
        del globals()[name]
    made = []
    for kind, content in nodes:
        here = [made[n] for n in content] if isinstance(content, list) else content
        if kind == 'list': each = here
        elif kind == 'tuple': each = tuple(here)
        elif kind == 'dict': each = dict(zip('abc', here))
        elif kind == 'thing':
            each = Thing()
            each.held = here
        elif kind == 'function': each = closure(here)
        elif kind == 'array': each = np.arange(here)
        elif kind == 'view':
            each = next((one[1:] for one in made if isinstance(one, np.ndarray)), None)
        elif kind == 'objects':
            each = np.empty(len(here), dtype=object)
            each[:] = here
        elif kind == 'text': each = 'text' * here
        elif kind == 'bytes': each = bytearray(here)
        elif kind == 'generator': each = (one for one in here)
        made.append(each)
    for source, target in edges:
        if isinstance(made[source], list): made[source].append(made[target])
        elif isinstance(made[source], dict): made[source][str(target)] = made[target]
        elif isinstance(made[source], Thing): made[source].more = made[target]
    for name, node in names.items():
        globals()[name] = made[node]

def described():
    seen, told, todo = {}, [], []
    for name in sorted(name for name in globals() if name[:2] == 'x_'):
        told.append(name)
        todo.append(globals()[name])
        while todo:
            each = todo.pop()
            if isinstance(each, (str, int, type(None))):
                told.append(each)
                continue
            if id(each) in seen:
                told.append('the same as %d' % seen[id(each)])
                continue
            seen[id(each)] = len(seen)
            told.append(type(each).__name__)
            if isinstance(each, (list, tuple)): inner = list(each)
            elif isinstance(each, dict): inner = [x for row in each.items() for x in row]
            elif isinstance(each, Thing): inner = list(vars(each).items())
            elif isinstance(each, types.FunctionType): inner = [each()]
            elif isinstance(each, np.ndarray) and each.dtype == object: inner = list(each)
            elif isinstance(each, np.ndarray):
                whole = each
                while isinstance(whole.base, np.ndarray): whole = whole.base
                where = ('memory', whole.__array_interface__['data'][0])
                inner = [each.tolist().__repr__(), seen.setdefault(where, len(seen))]
            else: inner = [len(each)]
            todo += reversed(inner)
    return told
"""
KINDS = ("list", "tuple", "dict", "thing", "function", "objects")
LEAVES = ("array", "text", "bytes")


@st.composite
def namespaces(draw: st.DrawFn) -> dict[str, Any]:
    """Names of objects, of which later ones hold earlier ones, and some edges back."""
    nodes: list[tuple[str, Any]] = []
    for _ in range(draw(st.integers(1, 12))):
        if nodes and draw(st.integers(0, 3)):
            kind = draw(st.sampled_from((*KINDS, "view")))
            number = 1 if kind == "function" else draw(st.integers(0, 3))
            inner = draw(st.lists(st.integers(0, len(nodes) - 1), min_size=number, max_size=number))
            nodes.append((kind, inner))
        elif draw(st.integers(0, 3)) == 0:
            nodes.append(("generator", []))
        else:
            nodes.append((draw(st.sampled_from(LEAVES)), draw(st.sampled_from((0, 1, 3, 20_000)))))
    index = st.integers(0, len(nodes) - 1)
    edges = draw(st.lists(st.tuples(index, index), max_size=4))
    names = draw(st.lists(index, min_size=1, max_size=6))
    return {
        "nodes": nodes,
        "edges": edges,
        "names": {f"x_{n}": node for n, node in enumerate(names)},
    }


def doomed(space: dict[str, Any]) -> set[str]:
    """The names from which a generator can be reached."""
    nodes = space["nodes"]
    holds = {n: set(inner) for n, (_, inner) in enumerate(nodes) if isinstance(inner, list)}
    for n, (kind, _) in enumerate(nodes):
        if kind == "view":  # of the first array, whatever it was given
            holds[n] = set()
    for source, target in space["edges"]:
        if nodes[source][0] in ("list", "dict", "thing"):
            holds.setdefault(source, set()).add(target)
    found = set()
    for name, node in space["names"].items():
        seen, todo = set(), [node]
        while todo:
            each = todo.pop()
            if each not in seen:
                seen.add(each)
                todo += holds.get(each, ())
        if any(nodes[each][0] == "generator" for each in seen):
            found.add(name)
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, Session, str]]:
    """A kernel that makes the objects, one that gets them, and where they are on the way."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"))) as made:
        first, second = made.pair()
        first.run(CODE)
        yield first, second, str(made.file)


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(namespaces())
def test_what_was_the_same_is_the_same(
    pair: tuple[Session, Session, str], space: dict[str, Any]
) -> None:
    first, second, file = pair
    second.value("[globals().pop(name) for name in list(globals()) if name[:2] == 'x_'] and None")
    first.value(f"put(**json.loads({json.dumps(space)!r}))")
    lost = {row["name"] for row in first.ask("survey()")["lost"]}
    assert lost == doomed(space)
    first.ask(f"save({file!r})")
    assert second.ask(f"restore({file!r})")["failed"] == []
    first.value(f"[globals().pop(name) for name in {sorted(lost)!r}] and None")
    assert second.value("described()") == first.value("described()")
