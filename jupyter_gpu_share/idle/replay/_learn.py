"""What the adaptive rule knows of notebooks in general, counted in a trace."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from ...size import Size
from .._adaptive import Model, weight
from .._history import SHORTEST, History
from ._trace import Session, gpus_of

__all__ = ["learn", "learnt_module", "usual_of"]

_KINDS = 10
_TRUST = 2.0
_MINUTES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 60, 90, 120, 240)
_MODULE = '''"""What the adaptive rule knows of notebooks in general.

Made by ``python -m bench.replay`` from 100,131 bursts of GPU use by interactive notebooks in a
public trace of June 2021 (ds2-lab/NotebookOS-Dashboard). Kinds are rows, from notebooks that go on
soonest to those that pause longest; each is about a tenth of all pauses.
"""

from __future__ import annotations

from ._adaptive import Model


def _rows(text: str, unit: float) -> list[list[float]]:
    return [[int(word) * unit for word in line.split()] for line in text.strip().splitlines()]


#: After how many minutes without use a share may be released: the columns of both tables.
_AGES = """
{ages}
"""
#: Of 10,000 pauses, how many were longer than that.
_WAITS = """
{waits}
"""
#: The seconds of share that a release at that age returned, for each pause, whether it came or not.
_RETURNED = """
{returned}
"""

LEARNT = Model(
    expected={expected!r},
    trust={trust!r},
    bounds={bounds!r},
    ages=_rows(_AGES, 60)[0],
    waits=_rows(_WAITS, 1e-4),
    returned=_rows(_RETURNED, 1),
    prices=[
{prices}
    ],
)
'''
_AIMS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3)


def usual_of(sessions: Sequence[Session]) -> Size:
    """The size that bursts have in the mean, as a size that can be written."""
    sizes = [burst.size for session in sessions for burst in session]
    mean = sum(map(gpus_of, sizes)) / len(sizes)
    if mean >= 1:
        return Size(Fraction(1), count=min(round(mean), 64))
    return Size(max(Fraction(mean).limit_denominator(64), Fraction(1, 64)))


def learn(sessions: Sequence[Session], usual: Size) -> Model:
    """Count how pauses go on in some sessions.

    Parameters
    ----------
    usual: what their sizes are compared with; see ``IdlePolicy.usual_size``.
    """
    lengths = [
        after.begin - before.end for session in sessions for before, after in pairwise(session)
    ]
    long = [math.log(length) for length in lengths if length >= SHORTEST]
    expected = round(math.exp(sum(long) / len(long))) if long else 600.0
    empty = Model(float(expected), _TRUST, (), (), (), (), ())
    rows = sorted(_paced(sessions, empty, usual))
    cuts = [rows[len(rows) * n // _KINDS][0] for n in range(1, _KINDS)] if rows else []
    bounds = sorted({float(f"{cut:.4g}") for cut in cuts})
    kinds: list[list[tuple[float, float]]] = [[] for _ in range(len(bounds) + 1)]
    for pace, length, share in rows:
        kinds[bisect_right(bounds, pace)].append((length, share))
    ages = [minutes * 60.0 for minutes in _MINUTES]
    model = Model(
        expected=float(expected),
        trust=_TRUST,
        bounds=bounds,
        ages=ages,
        waits=[[_part(kind, age) for age in ages] for kind in kinds],
        returned=[[_returned(kind, age) for age in ages] for kind in kinds],
        prices=(),
    )
    prices = _prices(model, kinds)
    return replace(model, prices=prices)


def _paced(
    sessions: Sequence[Session], model: Model, usual: Size
) -> list[tuple[float, float, float]]:
    """For each pause: the pace before it, its length, and the share's weight."""
    found = []
    for session in sessions:
        history = History()
        for before, after in pairwise(session):
            history.burst(before.begin, before.end)
            length = max(after.begin - before.end, 0.0)
            found.append((model.pace(history), length, weight(before.size, usual)))
    return found


def _part(kind: Sequence[tuple[float, float]], age: float) -> float:
    return round(sum(length > age for length, _ in kind) / max(len(kind), 1), 4)


def _returned(kind: Sequence[tuple[float, float]], age: float) -> float:
    return round(sum(length - age for length, _ in kind if length > age) / max(len(kind), 1))


def _prices(
    model: Model, kinds: Sequence[Sequence[tuple[float, float]]]
) -> list[tuple[float, float]]:
    """The price of a wait at which as many bursts wait as is aimed at."""
    groups: dict[tuple[int, float], list[float]] = {}
    for number, kind in enumerate(kinds):
        for length, share in kind:
            groups.setdefault((number, share), []).append(length)
    for lengths in groups.values():
        lengths.sort()
    total = sum(map(len, groups.values()))

    def waiting(price: float) -> float:
        count = 0
        for (kind, share), lengths in groups.items():
            age = model.release_of(kind, math.log(price / share))
            count += len(lengths) - bisect_right(lengths, age)
        return count / max(total, 1)

    found = []
    for aim in _AIMS:
        low, high = 1.0, 1e7
        for _ in range(40):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if waiting(middle) > aim else (low, middle)
        # Rounded up, as below this price more would wait.
        found.append((aim, float(f"{high * 1.0006:.4g}")))
    return found


def learnt_module(model: Model) -> str:
    """The text of ``_learnt.py``."""

    def table(rows: Sequence[Sequence[float]]) -> str:
        return "\n".join("".join(f"{cell:5.0f}" for cell in row) for row in rows)

    return _MODULE.format(
        ages=table([[age / 60 for age in model.ages]]),
        waits=table([[part * 1e4 for part in row] for row in model.waits]),
        returned=table(model.returned),
        expected=model.expected,
        trust=model.trust,
        bounds=list(model.bounds),
        prices="\n".join(f"        {pair!r}," for pair in model.prices),
    )
