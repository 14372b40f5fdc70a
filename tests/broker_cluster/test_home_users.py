"""A user who was deleted at the Hub, and another one who has the name now."""

from __future__ import annotations

import pytest
from fake_objects import FakeObjects
from homes import FakeHome, held
from waiting import eventually

from jupyter_gpu_share.broker.cluster.owners import born_of

FIRST, SECOND = "2026-11-01T12:00:00.000000Z", "2026-11-02T08:30:00.000000Z"


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/shares"), ("GET", "/v1/details")])
async def test_another_user_of_the_name_gets_nothing_of_the_earlier_ones(
    home: FakeHome, method: str, path: str
) -> None:
    earlier, bob = home.user("ann", created=FIRST), home.user("bob", created=FIRST)
    row = await earlier.start()
    await bob.start("b")
    await earlier.ok("POST", "/v1/shares/k/release", {"attempt": row["attempt"]})
    home.gone(earlier)
    del home.hub.tokens[earlier.token]
    again = home.user("ann", created=SECOND)
    assert await again.ok(method, path) == []
    assert (await again.refused("GET", "/v1/shares/k/connection"))[0] == 404
    await eventually(lambda: [p.plan.kernel_id for p in held(home)] == ["b"], "bob's alone is left")
    own = await again.start()
    assert own["name"] != row["name"]


@pytest.mark.parametrize(("now", "left"), [(FIRST, 1), ("", 1), (SECOND, 0)])
async def test_the_next_broker_knows_whose_a_kernel_was(
    home: FakeHome, now: str, left: int
) -> None:
    earlier = home.user("ann", created=FIRST)
    await earlier.start()
    (old,) = home.registry
    await home.registry.close()
    assert isinstance(old.objects, FakeObjects) and born_of(old.objects.owner) == FIRST
    second = home._registry()
    name, owner = old.objects.name, old.objects.owner
    kernel = second.restore(old.key, old.attempt, old.plan, owner, old.groups, name, ran=True)
    await kernel.begun.wait()
    second.hear_user("ann", now)
    assert len(second.rows("ann", "")) == left
    await eventually(lambda: len(held(home)) == left, "its pod ends")
    await second.close()


async def test_the_same_user_finds_what_was_kept(home: FakeHome) -> None:
    """Also where the Hub does not tell who was made when, or begins to."""
    for user, later in (("ann", FIRST), ("bob", ""), ("eve", FIRST)):
        first = home.user(user, created="" if user == "eve" else FIRST)
        row = await first.start(user)
        await first.ok("POST", f"/v1/shares/{user}/release", {"attempt": row["attempt"]})
        home.gone(first)
        second = home.user(user, created=later)
        assert (await second.row(user) or {})["name"] == row["name"]
    nobody = home.user("mallory", created=None)
    assert await nobody.ok("GET", "/v1/shares") == []


async def test_a_token_of_the_earlier_user_ends_nothing_of_the_next_one(home: FakeHome) -> None:
    """The Hub's last word about it counts for some seconds."""
    earlier, later = home.user("ann", created=FIRST), home.user("ann", created=SECOND)
    await later.start()
    await earlier.start("late")
    (own,) = await later.ok("GET", "/v1/shares")
    assert (own["kernel_id"], own["state"]) == ("k", "ready")
    await eventually(lambda: [p.plan.kernel_id for p in held(home)] == ["k"], "hers alone is left")
