"""The adaptive rule: how long a pause is waited for, from what is known of the notebook."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from ..size import Size
from ._history import History

__all__ = ["Model", "weight"]

#: What sizes in memory and MIG profiles are compared with where another is a part of a GPU.
_GPU_GIB = 80
_PROFILE_GIB = re.compile(r"\.(\d+)gb")


#: From so many pauses on, a notebook is no more settled.
_SETTLED = 100
_SETTLING = 0.2


@dataclass(frozen=True)
class Model:
    """How pauses went on in some trace, for notebooks of several kinds.

    Attributes
    ----------
    expected, trust: what a notebook is taken for before it has paused; see ``History.usual``.
    bounds: between the kinds; of what :meth:`pace` gives.
    ages: seconds without use at which a share may be released.
    waits: for each kind and age, the part of its pauses that were longer.
    returned: for each kind and age, the seconds that a release then returned, for each pause of
        the kind.
    prices: pairs of an aim and the seconds of a share of the usual size that one waiting burst
        then has to be worth.
    """

    expected: float
    trust: float
    bounds: Sequence[float]
    ages: Sequence[float]
    waits: Sequence[Sequence[float]]
    returned: Sequence[Sequence[float]]
    prices: Sequence[tuple[float, float]]

    def usual(self, history: History) -> float:
        """The pause to reckon with, in seconds."""
        return history.usual(self.expected, self.trust)

    def pace(self, history: History) -> float:
        """The usual pause, shortened for notebooks that have long been worked with.

        With the same pauses behind it, a new one is the sooner left alone.
        """
        settled = 1.0 + min(history.pauses, _SETTLED)
        return self.usual(history) / math.pow(settled, _SETTLING)

    def price(self, aim: float) -> float:
        """Seconds of a share of the usual size that one waiting burst has to be worth."""
        points = self.prices
        place = min(max(bisect_right(points, (aim, math.inf)), 1), len(points) - 1)
        (x0, y0), (x1, y1) = points[place - 1], points[place]
        part = (math.log(aim) - math.log(x0)) / (math.log(x1) - math.log(x0))
        return math.exp(math.log(y0) + part * (math.log(y1) - math.log(y0)))

    def kind(self, history: History) -> int:
        """Which of the kinds a notebook is of, from 0."""
        return bisect_right(self.bounds, self.pace(history))

    def release_after(self, history: History, weight: float, price: float) -> float:
        """The seconds without use after which a release gains most; infinity for never.

        What is gained is the time in which others can have the share, less the price of each
        burst that has to wait. Only what is known when the pause begins is used, so that the
        answer stays the same while it lasts.

        Parameters
        ----------
        weight: the share's size beside the usual one.
        """
        return self.release_of(self.kind(history), math.log(price / weight))

    def release_of(self, kind: int, price: float) -> float:
        """The same for a kind of notebooks.

        Parameters
        ----------
        price: the logarithm of a wait's price for a share of the usual size.
        """
        bounds, ages = self.best[kind]
        return ages[bisect_left(bounds, price)]

    @cached_property
    def best(self) -> Sequence[tuple[Sequence[float], Sequence[float]]]:
        """For each kind, the logarithms of some prices, and the ages that are best between them."""
        rows = zip(self.waits, self.returned, strict=True)
        return [_best(self.ages, waits, returned) for waits, returned in rows]


def _best(
    ages: Sequence[float], waits: Sequence[float], returned: Sequence[float]
) -> tuple[list[float], list[float]]:
    """The upper hull of what is returned over what waits, from its right end to never."""
    hull = [(0.0, 0.0, math.inf)]
    for point in sorted(zip(waits, returned, ages, strict=True), key=lambda p: (p[0], -p[1], p[2])):
        if point[1] <= hull[-1][1]:
            continue
        if point[0] == hull[-1][0]:
            hull.pop()
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    hull.reverse()
    bounds = [math.log(_slope(left, right)) for right, left in pairwise(hull)]
    return bounds, [age for _, _, age in hull]


def _slope(left: tuple[float, float, float], right: tuple[float, float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def weight(size: Size, usual: Size) -> float:
    """How much one share is beside another, within bounds that keep the rule steady."""
    return min(max(_gpus(size) / _gpus(usual), 1 / 8), 8.0)


def _gpus(size: Size) -> float:
    if size.fraction is not None:
        return float(size.fraction) * size.count
    if size.memory is not None:
        return size.memory / 2**30 / _GPU_GIB * size.count
    nominal = _PROFILE_GIB.search(size.profile or "")
    return (int(nominal[1]) / _GPU_GIB if nominal else 1.0) * size.count
