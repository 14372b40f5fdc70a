"""Limits of users, groups and all together, beside a model that counts minute by minute."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import pytest

from jupyter_gpu_share.broker import limits as module
from jupyter_gpu_share.broker.claim import Claim, words_of
from jupyter_gpu_share.broker.limits import Counted, Limits, LimitsError, Refusal, Use
from jupyter_gpu_share.engines.user_limits import UserLimit, limits_from_json
from jupyter_gpu_share.size import Size

START = datetime(2026, 11, 23, tzinfo=timezone.utc)
GIB = 2**30
ALL = {"user": ["*"]}
NOBODY: frozenset[str] = frozenset()
ONE = Fraction(1)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def claim(user: str, kernel: str, size: str = "1/4", *groups: str, minute: float = 0) -> Claim:
    found = Size.parse(size)
    gpus = (found.fraction or Fraction(0)) * found.count
    return Claim(
        user=user,
        kernel_id=kernel,
        size=found,
        gpus=gpus,
        memory_bytes=int(gpus * 80 * GIB),
        asked_at=at(minute),
        groups=frozenset(groups),
    )


def gpus(limit: Any, scope: Any = ALL) -> dict[str, Any]:
    return {"resource": "gpus", "limit": limit, "scope": scope}


def hours(limit: Any, days: Any, scope: Any = ALL) -> dict[str, Any]:
    return {"resource": "gpu_hours", "limit": limit, "window": days, "scope": scope}


def refused(limits: Limits, asked: Claim, held: Sequence[Claim], **more: Any) -> Refusal:
    found = limits.check(asked, held, more.pop("used", ()), more.pop("now", START), **more)
    assert found is not None
    assert "\n" not in found.text
    return found


# -- words -----------------------------------------------------------------------------------------


def test_a_refusal_says_what_is_held_and_by_which_kernels() -> None:
    held = [claim("ann", "a1b2c3d4-55", "1/2"), claim("bob", "b-of-bob", "1")]
    found = refused(Limits([gpus(1)]), claim("ann", "new", "3/4"), held)
    assert found.text == (
        "ann may have 1 GPU and now has 1/2 GPU. Yours: a1b2c3d4 (1/2). 3/4 GPU more is too much; "
        "give some back first."
    )
    assert (found.kernels, found.held, found.limit) == (("a1b2c3d4-55",), Fraction(1, 2), 1)
    assert (found.resource, found.scope, found.subject) == ("gpus", "user", "ann")
    assert not found.for_ever


def test_what_can_never_be_had_says_so() -> None:
    found = refused(Limits([gpus("1/2")]), claim("ann", "new", "2x1"), [])
    assert found.text == "2 GPUs is more than ann may have: 1/2 GPU. Ask for less."
    assert found.for_ever


def test_other_peoples_kernels_are_not_named() -> None:
    held = [claim("bob", "secret", "1", "course"), claim("ann", "mine", "1/2", "course")]
    for scope in ({"group": ["course"]}, "total"):
        found = refused(Limits([gpus(2, scope)]), claim("ann", "new", "1", "course"), held)
        assert "secret" not in found.text
        assert "bob" not in found.text
        assert "mine" in found.text
        assert (found.kernels, found.held) == (("mine",), Fraction(3, 2))
    assert found.text.startswith("Everybody together may have 2 GPUs and now has 1.5 GPUs.")


def test_many_kernels_are_counted_and_five_named() -> None:
    held = [claim("ann", f"k{n}", "1/8") for n in range(8)]
    found = refused(Limits([gpus(1)]), claim("ann", "new", "1/8"), held)
    assert "Yours: k0 (1/8), k1 (1/8), k2 (1/8), k3 (1/8), k4 (1/8) and 3 more." in found.text
    assert len(found.kernels) == 8


def test_names_are_text() -> None:
    found = refused(Limits([gpus(0)]), claim("a\nb\x1b[31m", "new"), [])
    assert "\x1b" not in found.text


def test_memory_and_kernels() -> None:
    memory = {"resource": "memory_bytes", "limit": "40GiB", "scope": ALL}
    kernels = {"resource": "kernels", "limit": 2, "scope": ALL}
    held = [claim("ann", "one", "1/4"), claim("ann", "two", "1/8")]
    assert (
        "ann may have 40 GiB and now has 30 GiB."
        in refused(Limits([memory]), claim("ann", "new", "1/4"), held).text
    )
    assert (
        "ann may have 2 kernels and now has 2 kernels."
        in refused(Limits([kernels]), claim("ann", "new", "1/4"), held).text
    )
    assert Limits([memory]).check(claim("ann", "new", "1/8"), held, (), START) is None


def test_amounts_in_words() -> None:
    amounts = (Fraction(0), Fraction(1, 4), Fraction(3, 2), Fraction(1, 1000), Fraction(2, 3))
    assert [words_of(each) for each in amounts] == ["0", "1/4", "1.5", "0", "2/3"]


# -- whose -----------------------------------------------------------------------------------------


def test_a_limit_of_a_user_is_over_all_servers_and_of_nobody_else() -> None:
    held = [replace(claim("ann", "one", "3/4"), server="two"), claim("bob", "other", "1")]
    limits = Limits([gpus(1)])
    assert limits.check(claim("ann", "new", "1/4"), held, (), START) is None
    assert refused(limits, claim("ann", "new", "1/2"), held)
    assert (
        Limits([gpus(1, {"user": ["bob"]})]).check(claim("ann", "x", "2x1"), held, (), START)
        is None
    )


def test_a_group_together_and_each_of_its_members() -> None:
    held = [claim("ann", "one", "1", "course"), claim("eve", "two", "1")]
    asked = claim("bob", "new", "1/2", "course")
    assert refused(Limits([gpus(1, {"group": ["course"]})]), asked, held).subject == "course"
    assert Limits([gpus(1, {"members_of": ["course"]})]).check(asked, held, (), START) is None
    assert refused(Limits([gpus("1/4", {"members_of": ["course"]})]), asked, held)
    outside = claim("eve", "new", "1/2")
    assert Limits([gpus(0, {"group": ["course"]})]).check(outside, held, (), START) is None


@pytest.mark.parametrize(("several", "allowed"), [("min", 1), ("max", 2), ("sum", 3)])
def test_where_several_fit(several: str, allowed: int) -> None:
    limits = Limits([gpus(1), gpus(2, {"members_of": ["staff"]})], several)
    assert limits.check(claim("ann", "x", f"{allowed}x1", "staff"), [], (), START) is None
    assert refused(limits, claim("ann", "x", f"{allowed + 1}x1", "staff"), []).limit == allowed
    assert refused(limits, claim("bob", "x", "2x1"), []).limit == 1


def test_a_users_limit_does_not_lift_that_of_all() -> None:
    limits = Limits([gpus(1, "total"), gpus(8, {"user": ["ann"]})], "sum")
    assert refused(limits, claim("ann", "x", "2x1"), []).scope == "total"


def test_a_change_of_size_counts_instead_of_what_is_held() -> None:
    held = [claim("ann", "one", "3/4")]
    assert Limits([gpus(1)]).check(claim("ann", "one", "1"), held, (), START) is None
    one = Limits([{"resource": "kernels", "limit": 1, "scope": ALL}])
    assert one.check(claim("ann", "one", "1"), held, (), START) is None


# -- hours -----------------------------------------------------------------------------------------


def use(user: str, begin: float, end: float | None, part: str = "1", *groups: str) -> Use:
    until = None if end is None else at(end)
    return Use(user, frozenset(groups), Fraction(part), at(begin), until)


def test_hours_of_a_window_and_when_it_frees_enough() -> None:
    limits = Limits([hours(2, 1)])
    used = [use("ann", 0, 60), use("ann", 120, 240, "1/2"), use("bob", 0, 600)]
    found = refused(limits, claim("ann", "new"), [], used=used, now=at(300))
    assert found.text == (
        "ann may use 2 GPU-hours in 1 day and has used 2 GPU-hours. If nothing is used until "
        "then, there is room at 2026-11-24 00:00 UTC."
    )
    later = found.free_at
    assert later is not None
    assert limits.check(claim("ann", "new"), [], used, later + timedelta(seconds=1)) is None
    assert limits.check(claim("ann", "new"), [], used, later - timedelta(seconds=1)) is not None
    less = [*used, use("ann", 250, 310, "1/2")]
    found = refused(limits, claim("ann", "new"), [], used=less, now=at(310))
    assert found.free_at == at(24 * 60 + 30)


def test_what_is_held_now_is_used() -> None:
    limits = Limits([hours("1/2", "0.5")])
    used = [use("ann", 0, None, "1/2")]
    assert limits.check(claim("ann", "new"), [], used, at(59)) is None
    assert refused(limits, claim("ann", "new"), [], used=used, now=at(60)).held == Fraction(1, 2)
    holding = [claim("ann", "old", "1/2"), claim("bob", "other")]
    assert limits.spent(holding, used, at(59)) == frozenset()
    assert limits.spent(holding, used, at(60)) == {"old"}


def test_no_hours_at_all() -> None:
    found = refused(Limits([hours(0, 7)]), claim("ann", "new"), [])
    assert found.free_at is None
    assert found.for_ever
    assert Limits([hours(0, 7)]).check(claim("ann", "new", "0"), [], (), START) is None
    assert Limits([hours(0, 7), hours(1, 30)]).longest_window == timedelta(days=30)


# -- the user's own --------------------------------------------------------------------------------


def test_own_limits_only_narrow() -> None:
    limits = Limits([gpus(1)])
    wide, narrow = [{"resource": "gpus", "limit": 8}], [{"resource": "gpus", "limit": "1/4"}]
    assert refused(limits, claim("ann", "new", "2x1"), [], own=wide).limit == 1
    found = refused(limits, claim("ann", "new", "1/2"), [], own=narrow)
    assert found.text.startswith("1/2 GPU is more than ann may have by your own configuration")
    with pytest.raises(LimitsError, match="unknown key 'scope'"):
        limits.check(claim("ann", "x"), [], (), START, own=[gpus(8)])


# -- what cannot be understood ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({}, "a list of entries"),
        (["gpus"], "is an entry with"),
        ([{"resource": "gpu", "limit": 1, "scope": "total"}], "one of gpus, memory_bytes"),
        ([{**gpus(1), "limits": 1}], "unknown key 'limits'"),
        ([{**gpus(1), "window": 7}], "window, which only gpu_hours have"),
        ([gpus(-1)], "limit of 0 or more"),
        ([gpus(True)], "limit of 0 or more"),
        ([gpus(float("nan"))], "limit of 0 or more"),
        ([gpus("1/0")], "limit of 0 or more"),
        ([gpus("1e999999999")], "limit of 0 or more"),
        ([gpus(None)], "limit of 0 or more"),
        ([hours(1, 0)], "needs a window"),
        ([hours(1, 400)], "needs a window"),
        ([{"resource": "gpu_hours", "limit": 1, "scope": "total"}], "needs a window"),
        ([{"resource": "memory_bytes", "limit": "1/2", "scope": "total"}], "40GiB"),
        ([{"resource": "memory_bytes", "limit": "lots", "scope": "total"}], "no memory"),
        ([{"resource": "kernels", "limit": 1.5, "scope": "total"}], "a whole number"),
        ([gpus(1, {})], "needs a scope"),
        ([gpus(1, "everybody")], "needs a scope"),
        ([gpus(1, {"users": ["ann"]})], "needs a scope"),
        ([gpus(1, {"user": ["a"], "group": ["b"]})], "needs a scope"),
        ([gpus(1, {"user": "ann"})], "a list of names"),
        ([gpus(1, {"group": ["*"]})], "only users"),
        ([gpus(1)] * 1001, "1000 are allowed"),
    ],
)
def test_a_misspelt_limit_is_refused_in_one_line(rules: Any, says: str) -> None:
    with pytest.raises(LimitsError, match=says) as caught:
        Limits(rules)
    assert "\n" not in str(caught.value)


def test_how_limits_are_joined_is_checked() -> None:
    with pytest.raises(LimitsError, match="max, min, sum"):
        Limits([], "most")


# -- beside a model --------------------------------------------------------------------------------


@dataclass
class Model:
    """Who held what in each minute, and the limits in the plainest words."""

    rules: Sequence[Mapping[str, Any]]
    join: str
    minute: int = 0
    held: dict[str, Claim] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)
    spans: list[tuple[Claim, int, int]] = field(default_factory=list)

    def used(self) -> list[Use]:
        spans = [Use(c.user, c.groups, c.gpus, at(b), at(e)) for c, b, e in self.spans]
        now = [Use(c.user, c.groups, c.gpus, at(self.begun[k])) for k, c in self.held.items()]
        return spans + now

    def take(self, asked: Claim) -> None:
        self.give(asked.kernel_id)
        self.held[asked.kernel_id], self.begun[asked.kernel_id] = asked, self.minute

    def give(self, kernel: str) -> None:
        if kernel in self.held:
            self.spans.append((self.held.pop(kernel), self.begun.pop(kernel), self.minute))

    def allowed(self, asked: Claim) -> bool:
        """Each limit once, by hand."""
        others = [each for key, each in self.held.items() if key != asked.kernel_id]
        limits: dict[tuple[str, Any, str], list[Fraction]] = {}
        for rule in self.rules:
            limit = Fraction(str(rule["limit"]))
            scope = rule["scope"]
            names: list[str] = []
            if scope == "total":
                names = ["total"]
            elif "group" in scope:
                names = [f"g {name}" for name in scope["group"] if name in asked.groups]
            elif asked.groups & set(scope.get("members_of", ())) or {"*", asked.user} & set(
                scope.get("user", ())
            ):
                names = [f"u {asked.user}"]
            for name in names:
                limits.setdefault((rule["resource"], rule.get("window"), name), []).append(limit)
        for (resource, window, name), found in limits.items():
            limit = {"max": max, "min": min, "sum": sum}[self.join](found)

            def counts(each: Claim, name: str = name) -> bool:
                own = name == f"u {each.user}" or (name[2:] in each.groups and name[0] == "g")
                return own or name == "total"

            if resource == "gpu_hours":
                first = self.minute - window * 24 * 60
                total = Fraction(0)
                spans = [
                    *self.spans,
                    *((c, self.begun[k], self.minute) for k, c in self.held.items()),
                ]
                for each, begin, end in spans:
                    minutes = sum(1 for minute in range(begin, end) if minute >= first)
                    total += each.gpus * minutes / 60 if counts(each) else 0
                if asked.gpus and total >= limit:
                    return False
                continue
            amounts = {
                "gpus": lambda one: one.gpus,
                "memory_bytes": lambda one: one.memory_bytes,
                "kernels": lambda one: not one.size.is_none,
            }
            mine = [*filter(counts, others), asked]
            total = sum((Fraction(amounts[resource](each)) for each in mine), Fraction(0))
            if total > limit:
                return False
        return True


def random_rules(chance: random.Random) -> list[dict[str, Any]]:
    scopes = [ALL, {"user": ["ann"]}, {"members_of": ["g"]}, {"group": ["g", "h"]}, "total"]
    found = []
    for _ in range(chance.randint(1, 4)):
        resource = chance.choice(["gpus", "memory_bytes", "kernels", "gpu_hours"])
        rule: dict[str, Any] = {"resource": resource, "scope": chance.choice(scopes)}
        if resource == "gpus":
            rule["limit"] = chance.choice(["1/4", 0.5, 1, "3/2", 2])
        elif resource == "memory_bytes":
            rule["limit"] = chance.choice([20, 40, 100]) * GIB
        elif resource == "kernels":
            rule["limit"] = chance.randint(0, 4)
        else:
            rule["limit"] = chance.choice(["1/4", 0.5, 1])
            rule["window"] = chance.choice([0.0625, 0.125])  # of 90 minutes, and of three hours
        found.append(rule)
    return found


def test_ten_thousand_sequences_beside_the_model() -> None:
    chance = random.Random(20261129)
    groups = {"ann": ("g",), "bob": ("g", "h"), "eve": ()}
    outcomes = {True: 0, False: 0}
    for number in range(10_000):
        rules, join = random_rules(chance), chance.choice(["max", "min", "sum"])
        limits, model = Limits(rules, join), Model(rules, join)
        own = [{"resource": "gpus", "limit": chance.choice(["1/4", 1, 9])}]
        for _ in range(8):
            model.minute += chance.randint(0, 40)
            if model.held and chance.random() < 0.35:
                model.give(chance.choice(sorted(model.held)))
                continue
            user = chance.choice(sorted(groups))
            kernel = f"{user}{chance.randint(0, 3)}"
            size = chance.choice(["1/8", "1/4", "1/2", "1", "0"])
            asked = claim(user, kernel, size, *groups[user])
            now, held, used = at(model.minute), list(model.held.values()), model.used()
            refusal = limits.check(asked, held, used, now)
            expected = model.allowed(asked)
            assert (refusal is None) == expected, (number, rules, join, asked, refusal)
            outcomes[expected] += 1
            narrowed = limits.check(asked, held, used, now, own)
            assert narrowed is not None or refusal is None, "own limits have widened"
            if refusal is None:
                model.take(asked)
            elif refusal.free_at is not None:
                closed = [replace(each, end=each.end or now) for each in used]
                step = timedelta(seconds=1)
                before = limits.check(asked, held, closed, refusal.free_at - step)
                assert before is not None, (rules, used)
                after = limits.check(asked, held, closed, refusal.free_at + step)
                assert after is None or after.free_at != refusal.free_at
    assert min(outcomes.values()) > 10_000


def test_many_sizes_of_a_kernel_cost_little_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server asks which sizes there are: whoever asks for one meanwhile stands behind it."""
    counted: list[str] = []
    amount = module.amount_of

    def count(resource: str, asked: Claim) -> Fraction:
        counted.append(resource)
        return amount(resource, asked)

    monkeypatch.setattr(module, "amount_of", count)
    limits, held = Limits([gpus(1000)]), [claim("ann", f"k{number}") for number in range(200)]
    tally = module.Counted(held, (), START)
    for number in range(1, 101):
        assert limits.weigh(claim("ann", "new", f"1/{number}"), tally, START) is None
    assert len(counted) <= 300


# -- what a user is told before anything is asked --------------------------------------------------


def test_a_user_is_told_of_each_limit_with_what_is_taken_and_no_name_of_others() -> None:
    rules = [
        {"resource": "kernels", "limit": 3, "scope": ALL},
        gpus(1),
        gpus(2, {"members_of": ["staff"]}),
        {"resource": "memory_bytes", "limit": "320GiB", "scope": {"group": ["course", "other"]}},
        hours(40, 7),
        gpus("1/2", {"user": ["bob"]}),
        {"resource": "kernels", "limit": 100, "scope": "total"},
    ]
    held = [claim("ann", "a", "1/2", "course"), claim("bob", "secret", "1/4", "course")]
    used = [Use("ann", frozenset(), Fraction(1), at(0), at(90)), Use("bob", NOBODY, ONE, at(0))]
    now, groups = at(120), frozenset({"course"})
    found = Limits(rules).of_user("ann", groups, Counted(held, used, now), now)
    assert found == [
        UserLimit("kernels", "user", None, None, 3, 1),
        UserLimit("gpus", "user", None, None, 1, 0.5),
        UserLimit("memory_bytes", "group", "course", None, 320 * GIB, 60 * GIB),
        UserLimit("gpu_hours", "user", None, 7, 40, 1.5),
        UserLimit("kernels", "total", None, None, 100, 2),
    ]
    assert limits_from_json([each.to_json() for each in found]) == tuple(found)
    assert "bob" not in str(found) and "secret" not in str(found)
    assert Limits().of_user("ann", groups, Counted(held, used, now), now) == []


def test_hours_that_are_used_up_say_when_there_is_room_again() -> None:
    used = [Use("ann", NOBODY, ONE, at(0), at(60))]
    now = at(120)
    (found,) = Limits([hours(1, 1)]).of_user("ann", NOBODY, Counted([], used, now), now)
    assert (found.held, found.limit) == (1, 1)
    free_at = found.free_at
    assert free_at is not None and abs(free_at - at(24 * 60)) < timedelta(seconds=1)
    (read,) = limits_from_json([found.to_json()])
    assert read.free_at is not None and abs(read.free_at - free_at) < timedelta(seconds=1)
    (none,) = Limits([hours(0, 1)]).of_user("ann", NOBODY, Counted([], used, now), now)
    assert none.free_at is None, "there never is"


@pytest.mark.parametrize(
    "change",
    [
        {"resource": "cells"},
        {"scope": "members_of"},
        {"group": "course"},
        {"scope": "group"},
        {"window_days": 7},
        {"limit": "1"},
        {"held": -1},
        {"held": float("nan")},
        {"held": True},
        {"free_at": "2026-11-23T00:00:00"},
        {"free_at": 5},
        {"free_at": "soon"},
    ],
)
def test_what_makes_no_sense_is_not_shown(change: dict[str, Any]) -> None:
    sound = UserLimit("kernels", "user", None, None, 3, 1)
    told = sound.to_json()
    assert limits_from_json([{**told, **change}, told, {}, "text"]) == (sound,)
    assert limits_from_json(None) == limits_from_json({}) == ()
    assert len(limits_from_json([told] * 1000)) < 100
