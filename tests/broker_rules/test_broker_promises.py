"""Promises about idle shares, against a record of what servers have said. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from moments import MINUTE, Clock

from jupyter_gpu_share.broker.claim import Claim
from jupyter_gpu_share.broker.idle import GRACE, LIFETIME, IdleShares
from jupyter_gpu_share.engines._processes import Holder
from jupyter_gpu_share.engines.base import Waiter
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.size import Size

POLICY = IdlePolicy()
AFTER, WARNED = timedelta(seconds=POLICY.demand_after), timedelta(seconds=POLICY.warn_before)
NAMES = ["1/a", "1/b", "2/a", "3/a"]
_WORD = st.tuples(
    st.sampled_from(["idle", "idle", "used", "kept", "lost", "leaving", "silent"]),
    st.integers(0, 3),
)
_TURN = st.tuples(
    st.sampled_from([1, 2, 3]),
    st.tuples(_WORD, _WORD),
    st.integers(0, 5),
    st.sampled_from([0.1, 0.4, 1.0, 3.0]),
)


class Waiting:
    """Some quarters that are waited for, and what is freed; nobody else has any."""

    def __init__(self, number: int) -> None:
        self.waiting = [Waiter(None, Size.parse("1/4")) for _ in range(number)]

    def served(self, freed: Collection[str]) -> frozenset[int]:
        return frozenset(range(min(len(self.waiting), len(set(freed)))))


@given(st.lists(_TURN, max_size=40))
@settings(max_examples=150, deadline=None)
def test_a_promise_is_kept_for_as_long_as_it_was_made(
    turns: list[tuple[int, tuple[tuple[str, int], tuple[str, int]], int, float]],
) -> None:
    """By a record of words alone: each that is due was idle, and asked back, all its time."""
    clock, shares = Clock(), IdleShares(POLICY)
    used_at = dict.fromkeys(NAMES, clock())
    words: dict[str, tuple[IdleShare, datetime]] = {}
    asked: dict[str, datetime] = {}
    dues: dict[str, datetime] = {}
    hurried: set[str] = set()
    claims = [
        Claim(name[0], name, Size.parse("1/4"), Fraction(1, 4), 0, clock(), held_since=clock())
        for name in NAMES
    ]
    clock.wait(60)
    for user, said, number, minutes in turns:
        clock.wait(minutes)
        now, of = clock(), f"{user}/"
        told = {}
        for name, (kind, far) in zip([n for n in NAMES if n.startswith(of)], said, strict=False):
            if kind == "used":
                used_at[name] = max(used_at[name], now - far * MINUTE)
            elif kind != "silent":
                until = now + far * MINUTE if kind == "kept" else None
                told[name] = IdleShare(
                    used_at[name], until, kept=kind != "lost", leaving=kind == "leaving"
                )
        if any(kind == "silent" for kind, _ in said):
            told = {}
        else:
            shares.hear(of, Holder(user, "server"), told, now)
            for name in [name for name in words if name.startswith(of)]:
                if name not in told or told[name].since > words[name][0].since:
                    asked.pop(name, None)
                words.pop(name)
            words |= {name: (word, now) for name, word in told.items()}
        shares.promise(shares.decide(Waiting(number) if number else None, claims, now))
        promised = shares.promises
        counting = {
            name: word
            for name, (word, heard) in words.items()
            if heard + LIFETIME > now or name in asked
        }
        able = {
            name
            for name, word in counting.items()
            if word.leaving
            or (
                word.kept
                and (word.keep_until is None or word.keep_until <= now)
                and now - word.since >= AFTER
            )
        }
        assert promised.keys() <= able
        assert len(promised) == min(number, len(able)), "as many as it takes, and no more"
        hurried = {
            name for name in promised if counting[name].leaving or name in hurried & asked.keys()
        }
        dues = {name: due for name, due in dues.items() if name in promised.keys() & asked.keys()}
        asked = {name: asked.get(name, now) for name in promised}
        for name, promise in promised.items():
            assert promise.asked == asked[name]
            assert promise.due <= dues.setdefault(name, promise.due), "a promise does not move on"
            assert name in hurried or promise.due >= asked[name] + WARNED
        late = {name for name, promise in promised.items() if promise.due + GRACE <= now}
        assert shares.overdue(now) == late
