"""Whatever refers to whatever in a namespace refers to it again in the next kernel.

Random graphs of containers, instances, closures, arrays and views of their memory. Some of them are
read back by a fresh process as well, which must not miss anything. ``make faults`` takes 2,000.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rounds import ROUNDS, SEED
from sessions import Session, Sessions

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(3600)]

GRAPHS = 100 * ROUNDS
#: One of so many is proven, and how long that may take.
PROVEN, SECONDS = 20, 60.0
#: Makes objects from a description, and describes them again by what is the same as what.
CODE = """
import json, types
import numpy as np

class Thing:
    pass

class Slots:
    __slots__ = ('number', 'held', 'more')

def closure(inner):
    def function():
        return inner
    return function

def twins(inner):
    def put(value):
        nonlocal inner
        inner = value
    def get():
        return inner
    return [put, get]

def view(of, how):
    if isinstance(of, bytearray):
        return np.frombuffer(of, 'u1')[how:] if len(of) > how else None
    if not isinstance(of, np.ndarray): return None
    if how == 0: return of[1:]
    if how == 1: return of[::-1]
    if how == 2: return of[::3]
    if how == 3: return of.reshape(1, -1)
    if how == 4 and of.dtype != object and of.flags.c_contiguous and of.size: return of.view('u1')
    return of.view()

def instance(cls, number, held):
    each = cls()
    each.number, each.held = number, held
    return each

def put(names, nodes, edges):
    for name in [name for name in globals() if name[:2] == 'x_']:
        del globals()[name]
    made = []
    for number, (kind, content) in enumerate(nodes):
        here = [made[n] for n in content] if isinstance(content, list) else content
        if kind == 'list': each = here
        elif kind == 'tuple': each = tuple(here)
        elif kind == 'dict': each = dict(zip('abc', here))
        elif kind == 'thing': each = instance(Thing, number, here)
        elif kind == 'slots': each = instance(Slots, number, here)
        elif kind == 'set': each = {x for x in here if isinstance(x, (str, Thing, Slots))}
        elif kind == 'frozen': each = frozenset(x for x in here if isinstance(x, (str, Thing)))
        elif kind == 'function': each = closure(here)
        elif kind == 'twins': each = twins(here)
        elif kind == 'array': each = np.arange(here)
        elif kind[:4] == 'view': each = view(here[0], int(kind[4:]))
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
        elif isinstance(made[source], (Thing, Slots)): made[source].more = made[target]
    for name, node in names.items():
        globals()[name] = made[node]

def memory(array):
    # Of what its memory belongs to; where an array has none of it, nothing can be shared.
    whole = array
    while isinstance(whole.base, np.ndarray): whole = whole.base
    owner = whole.base.obj if isinstance(whole.base, memoryview) else whole.base
    if isinstance(owner, bytearray): whole = np.frombuffer(owner, 'u1')
    return ('memory', whole.__array_interface__['data'][0] if array.nbytes else id(array)), whole

def parts(each):
    # What an object holds, in an order of its own; a tuple stands for memory.
    if isinstance(each, (list, tuple)): return list(each)
    if isinstance(each, dict): return [x for row in each.items() for x in row]
    if isinstance(each, Thing): return [x for row in sorted(vars(each).items()) for x in row]
    if isinstance(each, Slots): return [getattr(each, name, None) for name in Slots.__slots__]
    if isinstance(each, (set, frozenset)):
        return sorted(each, key=lambda x: (isinstance(x, str), getattr(x, 'number', x)))
    if isinstance(each, types.FunctionType): return list(each.__closure__ or ())
    if isinstance(each, types.CellType): return [each.cell_contents]
    if isinstance(each, np.ndarray) and each.dtype == object:
        return [str(each.shape), *each.flat, *memory(each)[1].flat]
    if isinstance(each, np.ndarray): return [str(each.dtype), str(each.tolist())]
    if isinstance(each, bytearray): return [str(len(each))]
    return []

def described():
    seen, told = {}, []
    for name in sorted(name for name in globals() if name[:2] == 'x_'):
        told.append(name)
        todo = [globals()[name]]
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
            if isinstance(each, bytearray) and each:
                told.append(seen.setdefault(memory(np.frombuffer(each, 'u1'))[0], len(seen)))
            if isinstance(each, np.ndarray):
                told.append(seen.setdefault(memory(each)[0], len(seen)))
            todo += reversed(parts(each))
    return told

def doomed():
    # The names from which a generator can be reached.
    found = []
    for name in [name for name in globals() if name[:2] == 'x_']:
        seen, todo = {}, [globals()[name]]
        while todo:
            each = todo.pop()
            if id(each) not in seen:
                seen[id(each)] = each
                todo += parts(each)
        if any(isinstance(each, types.GeneratorType) for each in seen.values()):
            found.append(name)
    return found
"""
KINDS = ("list", "tuple", "dict", "thing", "slots", "set", "frozen", "function", "twins", "objects")
VIEWS = tuple(f"view{how}" for how in range(6))
LEAVES = ("array", "text", "bytes")


@st.composite
def namespaces(draw: st.DrawFn) -> dict[str, Any]:
    """Names of objects, of which later ones hold earlier ones, and some edges back."""
    nodes: list[tuple[str, Any]] = []
    for _ in range(draw(st.integers(1, 14))):
        if nodes and draw(st.integers(0, 3)):
            kind = draw(st.sampled_from((*KINDS, *VIEWS)))
            number = 1 if kind in (*VIEWS, "function") else draw(st.integers(0, 3))
            inner = draw(st.lists(st.integers(0, len(nodes) - 1), min_size=number, max_size=number))
            nodes.append((kind, inner))
        elif draw(st.integers(0, 5)) == 0:
            nodes.append(("generator", []))
        else:
            nodes.append((draw(st.sampled_from(LEAVES)), draw(st.sampled_from((0, 1, 3, 20_000)))))
    index = st.integers(0, len(nodes) - 1)
    edges = draw(st.lists(st.tuples(index, index), max_size=4))
    names = draw(st.lists(index, min_size=1, max_size=8))
    return {
        "nodes": nodes,
        "edges": edges,
        "names": {f"x_{n}": node for n, node in enumerate(names)},
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, Session, str]]:
    """A kernel that makes the objects, one that gets them, and where they are on the way."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"))) as made:
        first, second = made.pair()
        first.run(CODE)
        yield first, second, str(made.file)


@seed(SEED)
@settings(
    max_examples=GRAPHS,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(namespaces(), st.integers(1, PROVEN))
def test_what_was_the_same_is_the_same(
    pair: tuple[Session, Session, str], space: dict[str, Any], turn: int
) -> None:
    first, second, file = pair
    second.value("[globals().pop(name) for name in list(globals()) if name[:2] == 'x_'] and None")
    first.value(f"put(**json.loads({json.dumps(space)!r}))")
    lost = {row["name"] for row in first.ask("survey()")["lost"]}
    assert lost == set(first.value("doomed()"))
    seconds = SECONDS if turn == PROVEN else None
    assert first.ask(f"save({file!r}, seconds={seconds})")["disproved"] == []
    assert second.ask(f"restore({file!r})")["failed"] == []
    first.value(f"[globals().pop(name) for name in {sorted(lost)!r}] and None")
    assert second.value("described()") == first.value("described()")
