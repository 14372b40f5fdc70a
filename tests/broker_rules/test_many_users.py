"""Many users on few GPUs: nothing is granted twice, nobody is left, and people wait less."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from bench.users import Run
from jupyter_gpu_share.idle.replay import Burst, Session
from jupyter_gpu_share.size import Size

HOUR = 3600.0


def people(count: int, seed: int) -> list[Session]:
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        size = Size.parse(chance.choice(["1/4", "1/2", "1/2", "1", "2x1"]))
        now, session = chance.uniform(0, HOUR), []
        for _ in range(chance.randint(2, 15)):
            end = now + chance.uniform(60, 1200)
            session.append(Burst(now, end, size))
            now = end + chance.choice([chance.uniform(30, 300), chance.uniform(1000, 9000)])
        found.append(session)
    return found


class Watched(Run):
    """Holds what is granted against what there is, whenever somebody was served."""

    def serve(self, now: float) -> None:
        super().serve(now)
        held = [user for user in self.users.values() if user.places is not None]
        used: dict[int, Fraction] = {}
        for user in held:
            part = user.claim.size.fraction
            assert part is not None
            for place in user.places or ():
                used[place] = used.get(place, Fraction(0)) + part
        assert all(part <= 1 for part in used.values())
        assert not {user.name for user in held} & self.queue.keys()
        assert self.asked.keys() <= {user.name for user in held if user.idle is not None}


@pytest.mark.parametrize("mode", ["reserved", "each server's own", "broker"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_everybody_is_served_and_nothing_twice(mode: str, seed: int) -> None:
    run = Watched(people(40, seed), mode, 3).run()
    assert all(user.place == len(user.bursts) for user in run.users.values())
    assert not run.queue
    assert all(user.places is None for user in run.users.values())
    assert run.waited > 0


def test_the_broker_has_people_wait_less_than_a_reservation() -> None:
    for seed in (1, 2, 3):
        sessions = people(40, seed)
        waited = {mode: Run(sessions, mode, 3).run().waited for mode in ("reserved", "broker")}
        assert waited["broker"] < waited["reserved"] / 2
