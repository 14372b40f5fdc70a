"""The adaptive rule: how long a pause is waited for, from what is known of the notebook."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

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

    def release_after(self, history: History, weight: float, price: float) -> float:
        """The seconds without use after which a release gains most; infinity for never.

        What is gained is the time in which others can have the share, less the price of each
        burst that has to wait. Only what is known when the pause begins is used, so that the
        answer stays the same while it lasts.

        Parameters
        ----------
        weight: the share's size beside the usual one.
        """
        return self.release_of(bisect_right(self.bounds, self.pace(history)), weight, price)

    def release_of(self, kind: int, weight: float, price: float) -> float:
        """The same for a kind of notebooks."""
        rows = zip(self.ages, self.waits[kind], self.returned[kind], strict=True)
        best, found = 0.0, math.inf
        for age, waits, returned in rows:
            gain = weight * returned - price * waits
            if gain > best:
                best, found = gain, age
        return found


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
