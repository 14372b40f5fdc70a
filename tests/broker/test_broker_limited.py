"""The administrator's limits hold where claims are made, for real users of a broker."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path

import pytest
from broker_users import ANN, BOB, RunningBroker, User, user
from waiting import PATIENCE

from jupyter_gpu_share.broker.client import BROKER, BrokerClient, BrokerRefused
from jupyter_gpu_share.broker.demand import demand
from jupyter_gpu_share.engines.local import LocalEngine
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.user_limits import UserLimit
from jupyter_gpu_share.sentences import sentences_of, words_of
from jupyter_gpu_share.size import Size

GIB = 2**30
ONE = '{"resource": "gpus", "limit": 1, "scope": {"user": ["*"]}}'


@contextmanager
def limited(folder: Path, *limits: str) -> Iterator[tuple[User, User, Path]]:
    """Two users of a broker with two GPUs and these limits."""
    lines = f"c.Broker.limits = [{', '.join(limits)}]"
    running = RunningBroker(folder, lines, simulate="2xA100-80GB")
    running.start()
    try:
        with user(ANN, running.socket) as ann, user(BOB, running.socket) as bob:
            yield ann, bob, running.socket
    finally:
        running.kill()


def ask(one: User, kernel: str, size: str) -> tuple[int, str]:
    status, told = one.ask("PUT", f"/v1/shares/{kernel}", {"size": size})
    return status, str(told)


def test_a_user_has_no_more_than_the_limit_over_all_servers(common: Path) -> None:
    with limited(common, ONE) as (ann, bob, path):
        ann.claim("a", "3/4")
        status, told = ask(ann, "b", "1/2")
        assert status == 409
        assert "may have 1 GPU and now has 3/4 GPU. Yours: a (3/4)." in told
        with user(ANN, path) as another:  # another server of the same user
            assert ask(another, "c", "1/2")[0] == 409
            assert ask(another, "c", "1/4")[0] == 200
        assert bob.claim("a", "1")["state"] == "held", "others are not touched"
        assert ask(ann, "a", "1/4")[0] == 200, "asked again it counts once"


def test_what_waits_counts_and_is_served_later(common: Path) -> None:
    with limited(common, ONE) as (ann, bob, path):
        bob.claim("x", "1")
        ann.claim("a", "3/4")
        with user(0, path) as root:
            root.claim("r", "1/4")
            assert ann.claim("b", "1/4")["state"] in ("held", "waiting")
            assert ask(ann, "c", "1/4")[0] == 409


def test_a_change_of_size_is_within_the_limit(common: Path) -> None:
    with limited(common, ONE) as (ann, _, _):
        ann.claim("a", "1/2")
        ann.claim("b", "1/4")
        status, told = ann.ask("POST", "/v1/shares/b/change", {"size": "3/4"})
        assert status == 409, told
        assert "Yours: a (1/2)." in str(told)
        assert ann.ask("POST", "/v1/shares/b/change", {"size": "1/2"})[0] == 200


def test_sizes_beyond_the_limit_are_told_beside_the_field(common: Path) -> None:
    with limited(common, ONE) as (ann, _, _):
        ann.claim("a", "3/4")
        told = ann.ok("POST", "/v1/fits", {"sizes": ["1/4", "1/2", "0"]})
        assert told[0] is None
        assert "may have 1 GPU" in told[1]
        assert told[2] is None


def test_memory_kernels_and_the_total(common: Path) -> None:
    limits = (
        '{"resource": "memory_bytes", "limit": "50GiB", "scope": {"user": ["*"]}}',
        '{"resource": "kernels", "limit": 3, "scope": "total"}',
    )
    with limited(common, *limits) as (ann, bob, _):
        assert ask(ann, "a", "60GiB")[0] == 409
        ann.claim("a", "30GiB")
        assert ask(ann, "b", "1/4")[0] == 200
        assert ask(ann, "c", "1GiB")[0] == 409, "20 of 80 GiB were the rest"
        bob.claim("a", "10GiB")
        status, told = ask(bob, "b", "1GiB")
        assert status == 409
        assert "Everybody together may have 3 kernels" in told
        assert "65521" not in told, "nobody else's kernels are named"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('{"resource": "gpu", "limit": 1, "scope": "total"}', "needs a resource"),
        ('{"resource": "gpus", "limt": 1, "scope": "total"}', "unknown key 'limt'"),
        ('{"resource": "gpu_hours", "limit": 1, "scope": "total"}', "needs a window"),
    ],
)
def test_a_limit_that_cannot_hold_stops_the_broker_in_one_line(
    common: Path, entry: str, says: str
) -> None:
    refused = RunningBroker(common, f"c.Broker.limits = [{entry}]")
    done = subprocess.run(refused.command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert says in line


A100 = Gpu("GPU-1", "A100", 0, 80 * GIB)
T4 = Gpu("GPU-2", "T4", 1, 16 * GIB)
SLICE = Gpu("MIG-1", "A100", 0, 20 * GIB, "2g.20gb", "GPU-3")


@pytest.mark.parametrize(
    ("size", "gpus", "amount", "memory"),
    [
        ("0", (A100,), Fraction(0), 0),
        ("1/4", (A100, T4), Fraction(1, 4), 20 * GIB),
        ("2x1/2", (A100,), Fraction(1), 80 * GIB),
        ("8GiB", (A100, T4), Fraction(1, 2), 8 * GIB),
        ("40GiB", (A100, T4), Fraction(1, 2), 40 * GIB),
        ("100GiB", (A100,), Fraction(1), 100 * GIB),
        ("mig-2g.20gb", (SLICE, A100), Fraction(2, 7), 20 * GIB),
        ("10GiB", (SLICE,), Fraction(2, 7), 10 * GIB),
        ("1/4", (), Fraction(1), 0),
    ],
)
def test_a_size_counts_for_the_most_that_it_may_come_to(
    size: str, gpus: tuple[Gpu, ...], amount: Fraction, memory: int
) -> None:
    assert demand(Size.parse(size), gpus) == (amount, memory)


def test_each_user_is_told_of_their_own_limits_before_they_ask(common: Path) -> None:
    kernels = '{"resource": "kernels", "limit": 3, "scope": {"user": ["*"]}}'
    hours = '{"resource": "gpu_hours", "limit": 40, "window": 7, "scope": {"user": ["*"]}}'
    total = '{"resource": "memory_bytes", "limit": "100GiB", "scope": "total"}'
    with limited(common, kernels, ONE, hours, total) as (ann, bob, _):
        ann.claim("a", "3/4")
        bob.claim("b", "1/4")
        told = {
            (each["resource"], each["scope"]): (each["held"], each["limit"])
            for each in ann.ok("GET", "/v1/machine")["you"]["limits"]
        }
        used, most = told.pop(("gpu_hours", "user"))
        assert most == 40 and 0 <= used < 0.75
        assert told == {
            ("kernels", "user"): (1, 3),
            ("gpus", "user"): (0.75, 1),
            ("memory_bytes", "total"): (80 * GIB, 100 * GIB),
        }
        ann.ok("DELETE", "/v1/shares/a")
        rows = ann.ok("GET", "/v1/machine")["you"]["limits"]
        assert [row["held"] for row in rows if row["resource"] == "gpus"] == [0]


async def test_a_users_engine_has_the_limits_of_its_user(
    common: Path, jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with limited(common, ONE) as (ann, _, path):
        ann.claim("a", "3/4")
        monkeypatch.setenv(BROKER, str(path))
        monkeypatch.delenv("JUPYTER_GPU_SHARE_SIMULATE", raising=False)
        engine = LocalEngine()
        await engine.capacity()
        assert list(await engine.user_limits()) == [UserLimit("gpus", "user", None, None, 1, 0)]
        await engine.close()
    monkeypatch.setenv("JUPYTER_GPU_SHARE_SIMULATE", "1xA100-80GB")
    monkeypatch.setenv(BROKER, "")
    alone = LocalEngine()
    await alone.capacity()
    assert await alone.user_limits() == (), "without a broker there are none"
    await alone.close()


async def test_words_of_the_broker_arrive_with_their_sentences(
    common: Path, jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUPYTER_GPU_SHARE_SIMULATE", raising=False)
    half = '{"resource": "gpus", "limit": "1/2", "scope": "total"}'
    with limited(common, half) as (ann, _, path):
        text = ann.ok("POST", "/v1/fits", {"sizes": ["1"]})
        assert text == ["1 GPU is more than everybody together may have: 1/2 GPU. Ask for less."]
        with closing(BrokerClient(path)) as root, pytest.raises(BrokerRefused) as caught:
            root.ask("PUT", "/v1/shares/a", {"size": "1"})
        codes = [each["code"] for each in sentences_of(words_of(caught.value))]
        assert codes == ["limit-total-never", "ask-for-less"]
        monkeypatch.setenv(BROKER, str(path))
        engine = LocalEngine()
        why = await engine.fits(None, Size.parse("1"))
        assert why == text[0]
        assert [each["code"] for each in sentences_of(why or "")] == codes
        await engine.close()
