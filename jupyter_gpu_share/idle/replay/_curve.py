"""Idle hours returned against bursts that wait: fixed, adaptive, and with perfect foresight."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from .._adaptive import Model
from .._policy import IdlePolicy
from ._alone import Outcome, Pause, Progress, replay
from ._learn import learn, usual_of
from ._trace import Session

__all__ = [
    "AIMS",
    "TIMEOUTS",
    "Curve",
    "Point",
    "at",
    "cross_validated",
    "curve",
    "foresight",
    "points",
]

#: Seconds.
TIMEOUTS = tuple(60.0 * minutes for minutes in (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, 120))
AIMS = (0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.116, 0.13, 0.15, 0.2, 0.25)


class Point(NamedTuple):
    """What one setting comes to.

    Attributes
    ----------
    setting: a timeout in seconds, or an aim.
    waiting, returned: parts of the bursts, and of the idle GPU-hours.
    """

    setting: float
    waiting: float
    returned: float


@dataclass(frozen=True)
class Curve:
    """Points in the order of ``waiting``.

    Attributes
    ----------
    shipped: the adaptive rule with what it knows where it is installed.
    judged: the adaptive rule learnt on half of the sessions and judged on the other, both ways.
    """

    fixed: list[Point]
    shipped: list[Point]
    judged: list[Point]


def curve(
    sessions: Sequence[Session],
    make: Callable[..., IdlePolicy],
    *,
    seed: int,
    progress: Progress = lambda part: None,
) -> Curve:
    """The fixed and the adaptive rule with many settings.

    Parameters
    ----------
    make: a policy with these settings.
    seed: for the halves.
    """
    fixed = [make(rule="fixed", timeout=timeout) for timeout in TIMEOUTS]
    shipped = [make(rule="adaptive", aim=aim) for aim in AIMS]
    both = replay(sessions, [*fixed, *shipped], lambda part: progress(part * 0.6))
    outcomes = cross_validated(
        sessions, make, AIMS, seed=seed, progress=lambda part: progress(0.6 + part * 0.4)
    )
    return Curve(
        fixed=points(TIMEOUTS, both[: len(fixed)]),
        shipped=points(AIMS, both[len(fixed) :]),
        judged=points(AIMS, outcomes),
    )


def cross_validated(
    sessions: Sequence[Session],
    make: Callable[..., IdlePolicy],
    aims: Sequence[float],
    *,
    seed: int,
    progress: Progress = lambda part: None,
) -> list[Outcome]:
    """The adaptive rule, learnt on half of the sessions and judged on the other, both ways.

    An outcome for each aim, of all sessions.
    """
    order = list(sessions)
    random.Random(seed).shuffle(order)  # noqa: S311 - no secret
    halves = order[::2], order[1::2]
    total = [Outcome() for _ in aims]
    for number, judged in enumerate(halves):
        others = halves[1 - number]
        if not others:
            continue
        usual = usual_of(others)
        model = learn(others, usual)
        policies = [
            with_model(make(rule="adaptive", aim=aim, usual_size=str(usual)), model) for aim in aims
        ]
        found = replay(judged, policies, _half_of(progress, number))
        for sum_, part in zip(total, found, strict=True):
            sum_.pauses += part.pauses
            sum_.waiting += part.waiting
            sum_.idle += part.idle
            sum_.returned += part.returned
    return total


def _half_of(progress: Progress, number: int) -> Progress:
    return lambda part: progress((number + part) / 2)


def with_model(policy: IdlePolicy, model: Model) -> IdlePolicy:
    """The policy with something else known of notebooks in general."""
    policy.model = model
    return policy


def foresight(pauses: Sequence[Pause], waiting: float, *, by_gpus: bool = True) -> float:
    """The part of the idle GPU-hours returned if each pause's length were known as it begins.

    Parameters
    ----------
    waiting: the part of the bursts that may wait.
    by_gpus: choose the pauses with the most GPU-hours, which is the most that can be had; or else
        those that last longest, whatever the size.
    """
    order = sorted(pauses, key=lambda p: p.length * p.gpus if by_gpus else p.length, reverse=True)
    idle = sum(pause.length * pause.gpus for pause in order)
    chosen = order[: round(waiting * len(order))]
    return sum(pause.length * pause.gpus for pause in chosen) / idle if idle else 0.0


def at(points: Sequence[Point], waiting: float) -> Point | None:
    """A point between two of a curve; None beyond its ends."""
    for before, after in pairwise(points):
        if before.waiting <= waiting <= after.waiting:
            width = after.waiting - before.waiting
            part = (waiting - before.waiting) / width if width else 0.0
            return Point(
                before.setting + part * (after.setting - before.setting),
                waiting,
                before.returned + part * (after.returned - before.returned),
            )
    return None


def points(settings: Sequence[float], outcomes: Sequence[Outcome]) -> list[Point]:
    """A curve from what each setting came to."""
    rows = zip(settings, outcomes, strict=True)
    found = [Point(each, out.part_waiting, out.part_returned) for each, out in rows]
    return sorted(found, key=lambda point: point.waiting)
