"""The engine of a server without rights: the broker is a fake, agents and kernels are real."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from fake_cluster_broker import GIB, TOKEN, FakeClusterBroker
from kernel_talk import printed
from local_pods import LocalPods
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines import make_engine, usual_engine
from jupyter_gpu_share.engines.base import KernelRequest, Running, Starting, Waiting
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.engines.kubernetes import BrokeredEngine
from jupyter_gpu_share.engines.kubernetes._brokered import _FAREWELL
from jupyter_gpu_share.engines.user_limits import UserLimit
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.sentences import say, sentences_of, words_of
from jupyter_gpu_share.size import Size

KEY = b"0123456789abcdef0123456789abcdef"
ARGV = ["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
LONG = 60.0


@pytest.fixture
def hub(broker: FakeClusterBroker, jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server of the Hub has in its environment."""
    monkeypatch.setenv("JUPYTER_GPU_SHARE_BROKER", broker.url)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", TOKEN)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing is sent there


@pytest.fixture
async def engines(hub: None) -> AsyncIterator[Callable[[], BrokeredEngine]]:
    """Makes engines: one is what one process of the server has."""
    made: list[BrokeredEngine] = []

    def make() -> BrokeredEngine:
        made.append(BrokeredEngine())
        return made[-1]

    yield make
    for engine in made:
        await engine.close()


@pytest.fixture
async def engine(engines: Callable[[], BrokeredEngine]) -> BrokeredEngine:
    return engines()


@pytest.fixture
async def pods(broker: FakeClusterBroker, tmp_path: Path) -> AsyncIterator[LocalPods]:
    """Real agents for the broker's kernels."""
    broker.placed = "starting"
    found = LocalPods(broker, tmp_path / "pods")
    yield found
    await found.close()


def request(kernel_id: str = "k", size: str = "1/2", **fields: Any) -> KernelRequest:
    env = {"JPY_SESSION_NAME": "n.ipynb", "SECRET_OF_SERVER": "not for kernels", "LANG": "C.UTF-8"}
    return KernelRequest(kernel_id, "python3", Size.parse(size), ARGV, env, KEY, **fields)


async def started(engine: BrokeredEngine, *args: Any, **fields: Any) -> Running:
    return await asyncio.wait_for(engine.start(request(*args, **fields), lambda _: None), LONG)


async def run(running: Running, code: str) -> str:
    """Run a cell; what it printed."""
    return await printed(running.connection, code, LONG)


async def test_it_is_the_engine_where_a_broker_is_named(
    hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usual_engine() == "kubernetes"
    assert isinstance(make_engine("kubernetes", parent=None), BrokeredEngine)  # type: ignore[arg-type]
    monkeypatch.setenv("JUPYTER_GPU_SHARE_BROKER", "/run/broker.sock")
    assert usual_engine() == "local"


async def test_starts_are_numbered_in_the_order_in_which_they_were_asked_for(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    """Whatever is lost on the way, and however often each is sent."""
    broker.set_room(0)
    broker.lose("machine", "before", times=3)
    broker.lose("PUT", "before", times=4)
    names = [f"k{n}" for n in range(5)]
    starts = [asyncio.create_task(engine.start(request(name), lambda _: None)) for name in names]
    try:
        await eventually(lambda: len(broker.kernels) == 5, "all are asked for", LONG)
    finally:
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
    sent = [(what, body["number"]) for what, body in broker.bodies if what.startswith("PUT")]
    assert set(sent) == {(f"PUT /v1/shares/k{n}", n + 1) for n in range(5)}
    assert len(sent) >= 5


@pytest.mark.slow
async def test_a_kernel_runs_restarts_and_ends(
    engine: BrokeredEngine, broker: FakeClusterBroker, pods: LocalPods
) -> None:
    running = await started(engine)
    assert running.share.memory_bytes == 40 * GIB
    code = "import os; x = 1; print(os.environ.get('SECRET_OF_SERVER'), os.environ['LANG'])"
    assert await run(running, code) == "None C.UTF-8", "an environment by the broker's list"
    shown = "import os; print(os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES'])"
    assert await run(running, shown) == str(40 * GIB)
    assert "SECRET_OF_SERVER" not in repr(broker.bodies)
    assert "ipykernel_launcher" not in repr(broker.bodies), "no command goes to the broker"
    again = await started(engine)
    assert await run(again, "print('x' in globals())") == "False"
    assert list(broker.pods.values()) == [1], "in the same pod"
    (shown_row,) = await engine.allocations()
    assert (shown_row.kernel_id, shown_row.user) == ("k", "alice")
    await engine.stop("k")
    assert broker.kernels == {}
    await eventually(lambda: not pods.running(), "its pod ends")


@pytest.mark.slow
async def test_a_share_goes_and_comes_back_and_is_of_another_size(
    engine: BrokeredEngine, broker: FakeClusterBroker, pods: LocalPods
) -> None:
    running = await started(engine)
    await run(running, "x = 41")
    assert engine.detachable("k")
    await engine.give_back("k")
    assert broker.kernels["k"].state == "released"
    broker.set_room(0)
    told: list[Any] = []
    task = asyncio.create_task(engine.take_back("k", told.append))
    await eventually(lambda: any(isinstance(each, Waiting) for each in told), "it waits in words")
    broker.set_room(1)
    assert (await asyncio.wait_for(task, PATIENCE)).memory_bytes == 40 * GIB
    change = await engine.plan_change("k", Size.parse("1"))
    assert change is not None
    assert change.limits["JUPYTER_GPU_SHARE_MEMORY_BYTES"] == str(80 * GIB)
    assert (await engine.change("k", Size.parse("1"))).memory_bytes == 80 * GIB
    assert (await engine.limits("k"))["JUPYTER_GPU_SHARE_MEMORY_BYTES"] == str(80 * GIB)
    assert await run(running, "print(x + 1)") == "42", "the same process"


@pytest.mark.slow
async def test_a_kernel_runs_on_while_the_broker_is_away(
    engine: BrokeredEngine, broker: FakeClusterBroker, pods: LocalPods
) -> None:
    running = await started(engine)
    await broker.stop()
    assert await run(running, "print(6 * 7)") == "42"
    again = await started(engine)
    assert await run(again, "print('restarted')") == "restarted"
    await broker.start()


@pytest.mark.slow
async def test_the_next_process_takes_a_kernel_over_with_its_variables(
    engines: Callable[[], BrokeredEngine], broker: FakeClusterBroker, pods: LocalPods
) -> None:
    first = engines()
    running = await started(first, path="a/n.ipynb")
    await run(running, "x = 42")
    assert await first.adoptable() == []
    await first.give_back("k")
    # It is killed: nothing of it is said any more.
    kernel = first._kernels["k"]
    assert kernel.link is not None
    await kernel.link.close()
    assert first._followed is not None
    await first._followed.close()
    second = engines()
    (found,) = await second.adoptable()
    assert (found.kernel_id, found.key, found.path) == ("k", KEY, "a/n.ipynb")
    taken = await started(second, path="a/n.ipynb")
    assert taken.away
    assert await run(taken, "print(x)") == "42"
    assert broker.kernels["k"].instance == second.instance
    first._kernels.clear()


async def test_a_server_that_ends_leaves_its_kernels_as_they_are(
    engines: Callable[[], BrokeredEngine], broker: FakeClusterBroker, pods: LocalPods
) -> None:
    """The broker sees to them from then on: nothing that a stop does on the way ends one."""
    first = engines()
    await run(await started(first), "x = 42")
    assert not first.keeps("k")
    await first.leave()
    assert first.keeps("k") and not first.keeps("other")
    await first.signal("k", signal.SIGKILL)
    await first.stop("k")
    assert not first.keeps("k")
    second = engines()
    (found,) = await second.adoptable()
    assert found.kernel_id == "k"
    assert await run(await started(second), "print(x)") == "42"


async def test_more_may_be_taken_over_later_while_another_process_has_it(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    from fake_cluster_broker import Kernel

    other = "b" * 32
    kernel = Kernel("old", "a" * 32, "1/2", other, state="ready")
    broker.kernels["old"] = kernel
    broker.alive.add(other)
    assert await engine.adoptable() == [] and engine.more_to_adopt
    broker.alive.clear()
    kernel.state = "starting"
    assert await engine.adoptable() == [] and engine.more_to_adopt
    kernel.state, kernel.fields["ended"] = "ended", {"code": -9, "reason": "Gone."}
    assert await engine.adoptable() == [] and not engine.more_to_adopt
    await broker.stop()
    with pytest.raises(EngineError):
        await engine.adoptable()
    assert engine.more_to_adopt, "nobody knows"
    await broker.start()
    engine.adopt = False
    kernel.state, kernel.fields = "ready", {}
    broker.alive.add(other)
    assert await engine.adoptable() == [] and not engine.more_to_adopt
    broker.kernels.clear()


async def test_a_start_waits_in_words_for_a_broker_that_is_away(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    await broker.stop()
    told: list[Any] = []
    task = asyncio.create_task(engine.start(request(), told.append))
    await eventually(lambda: told, "it waits")
    assert "The broker of this cluster does not answer" in told[0].reason
    assert TOKEN not in repr(told)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await broker.start()


async def test_a_pod_that_is_not_reached_is_told_of(
    engine: BrokeredEngine, broker: FakeClusterBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.engines.kubernetes._brokered._UNREACHED", 0.1)
    monkeypatch.setattr("jupyter_gpu_share.engines.kubernetes._brokered._LOOK", 0.02)
    told: list[Any] = []
    task = asyncio.create_task(engine.start(request(), told.append))
    await eventually(
        lambda: any(isinstance(each, Starting) and "doctor" in each.notice for each in told),
        "it is told",
    )
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert broker.kernels == {}


async def test_a_start_that_was_given_up_is_ended_though_it_comes_late(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    await engine._asked()
    engine._rows.open()
    await eventually(lambda: broker._streams, "events are followed")
    body = {
        "attempt": "e" * 32,
        "size": "1/4",
        "info": {"kernel_name": "python3", "path": None},
        "pod": {"keys": {}},
    }
    await engine._broker.ask("PUT", "/v1/shares/late", body)
    await eventually(lambda: not broker.kernels and not engine._ending, "it is ended")


async def test_what_the_broker_tells_of_the_cluster(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    (gpu,) = await engine.capacity()
    assert (gpu.uuid, gpu.memory_bytes, gpu.free_bytes) == ("GPU-0", 80 * GIB, 80 * GIB)
    assert engine.memory_to_come == (40 * GIB,)
    assert engine.sharing == ("dra", "lease")
    assert "namespace 'kernels'" in engine.place
    sizes = [Size.parse(text) for text in ("1/4", "1")]
    assert await engine.fits_each(None, sizes) == [None, "No room."]
    assert await engine.fits(None, Size.parse("0")) is None
    assert await engine.rounding(Size.parse("1/4")) == "1/4 is exact."
    assert await engine.snapshot() is None, "the broker decides whose share goes"


async def test_limits_come_with_the_gpus_and_nobody_is_asked_again(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    assert await engine.user_limits() == ()
    await engine.capacity()
    assert await engine.user_limits() == (), "a broker of an earlier version tells none"
    limit = UserLimit("kernels", "user", None, None, 3, 2)
    broker.limits = [limit.to_json(), {"resource": "of a later version"}]
    await engine.capacity()
    asked = len(broker.asked)
    assert list(await engine.user_limits()) == [limit]
    assert len(broker.asked) == asked


async def test_what_the_broker_says_arrives_with_its_sentences(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    limit, held = say("amount-gpu", number="1"), say("amount-gpu", number="1/2")
    broker.why = broker.refused = say("limit-user-has", name="alice", limit=limit, held=held)
    why = await engine.fits(None, Size.parse("1"))
    assert why == "alice may have 1 GPU and now has 1/2 GPU."
    (sentence,) = sentences_of(why)
    assert (sentence["code"], sentence["values"]["name"]) == ("limit-user-has", "alice")
    assert sentence["values"]["held"][0]["code"] == "amount-gpu"
    with pytest.raises(EngineError) as caught:
        await started(engine, "refused")
    assert sentences_of(words_of(caught.value)) == [sentence]
    broker.why = None
    assert sentences_of(await engine.fits(None, Size.parse("1")) or "")[0]["code"] is None


async def test_idle_shares_are_told_now_and_then_and_asked_back(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    idle = {"k": IdleShare(datetime.now(timezone.utc))}

    def told() -> int:
        return broker.asked.count("PUT /v1/idle")

    for _ in range(3):
        assert await engine.wanted(idle) == {}
    assert told() == 1, "what is known is not told again"
    broker.wanted = {"k": 30}
    engine._note_waiter()
    asked = await engine.wanted(idle)
    assert asked is not None
    assert asked["k"].due is not None
    assert told() == 2
    await broker.stop()
    assert await engine.wanted(idle) == asked, "what was asked for stands"
    await broker.start()


async def test_what_a_kernel_lost_is_told_once_to_its_notebook(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    from fake_cluster_broker import Kernel

    broker.kernels["old"] = Kernel(
        "old",
        "a" * 32,
        "1/2",
        "b" * 32,
        path="n.ipynb",
        state="ended",
        fields={"ended": {"code": -15, "reason": "Gone."}, "lost_work": "Its server stopped."},
    )
    await engine._asked()
    rows = engine._rows
    await eventually(lambda: rows.row("old"), "it is told")
    assert await engine.losses("other.ipynb") == []
    assert await engine.losses("n.ipynb") == ["Its server stopped."]
    await eventually(lambda: not broker.kernels, "it is told once")


async def test_a_server_that_ends_says_so_first(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    await engine._asked()
    engine._rows.open()
    await eventually(lambda: broker._streams, "events are followed")
    await engine.leave()
    assert broker.left == [engine.instance]
    await eventually(lambda: not broker._streams, "it is not there any more")
    assert await engine.wanted({"k": IdleShare(datetime.now(timezone.utc))}) == {}
    assert "PUT /v1/idle" not in broker.asked, "no sign of life"


async def test_a_farewell_that_is_not_heard_holds_nothing_up(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    await engine._asked()
    engine._rows.open()
    broker.stalled = asyncio.Event()
    assert _FAREWELL < 1.0, "a server may have one second"
    await asyncio.wait_for(engine.leave(), PATIENCE)
    broker.stalled.set()


async def test_the_token_of_no_server_starts_nothing(
    engine: BrokeredEngine, broker: FakeClusterBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = broker.machine
    monkeypatch.setattr(broker, "machine", lambda: real() | {"you": {"user": "a", "server": None}})
    with pytest.raises(EngineError, match="is of no server"):
        await started(engine)
    assert broker.pods.total() == 0


async def levels(engine: BrokeredEngine) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in await engine.diagnose():
        found.setdefault(finding.level, []).append(f"{finding.what} {finding.fix or ''}")
    return found


async def test_doctor_says_that_all_is_well(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    found = await levels(engine)
    assert set(found) == {"ok"}, found
    assert any("knows you as alice, your default server" in line for line in found["ok"])


@pytest.mark.parametrize(
    ("status", "detail", "words"),
    [
        (403, "The scope is missing.", "hub.loadRoles.user and hub.loadRoles.server"),
        (401, "The Hub knows no such token.", "start it again"),
        (503, "The Hub does not answer.", "The Hub does not answer"),
    ],
)
async def test_doctor_names_what_is_missing(
    engine: BrokeredEngine, broker: FakeClusterBroker, status: int, detail: str, words: str
) -> None:
    broker.problem = (status, detail)
    found = await levels(engine)
    assert set(found) == {"error"}
    (line,) = found["error"]
    assert detail in line
    assert words in line


async def test_doctor_tells_a_broker_that_is_away(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    await broker.stop()
    (line,) = (await levels(engine))["error"]
    assert "does not answer" in line
    assert "singleuser.networkPolicy.egress" in line
    assert TOKEN not in line
    await broker.start()


async def test_doctor_tells_pods_that_are_not_reached_and_an_older_broker(
    engine: BrokeredEngine, broker: FakeClusterBroker
) -> None:
    from fake_cluster_broker import Kernel

    broker.version = "0.0.1"
    # Nothing listens there.
    far = Kernel("k", "a" * 32, "1/2", engine.instance, state="ready")
    far.fields["address"] = "127.0.0.254"
    broker.kernels["k"] = far
    found = await levels(engine)
    (line,) = found["error"]
    assert "52001 to 52006" in line
    assert "singleuser.networkPolicy.egress" in line
    (old,) = found["warning"]
    assert "version 0.0.1" in old


def test_no_environment_has_the_token_that_kernels_see() -> None:
    from jupyter_gpu_share.engines.kubernetes._environment import kernel_environment

    env = {"JUPYTERHUB_API_TOKEN": TOKEN, "JUPYTER_GPU_SHARE_BROKER": "http://b", **os.environ}
    assert TOKEN not in kernel_environment(env, (), ["*"]).values()
