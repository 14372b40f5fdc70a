"""How kernels are started in their pod, and started again."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Any

import pytest
from agents import ARGV, DAEMON, EXECUTED, HELD, Peer, Pod, run
from processes import alive, descendants
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes._link import _REPEAT

pytestmark = pytest.mark.slow


async def test_a_start_that_is_said_twice_is_done_once(pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    one = await link.start("r1", ARGV, {}, None)
    peer = pod.peer()
    await peer.say("start", run="r1", argv=ARGV, env={}, cwd=None)
    assert (await peer.heard())["pid"] == one.pid
    assert pod.kernels() == {one.pid}


async def test_a_start_while_the_old_kernel_runs_replaces_it(pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    one = await link.start("r1", ARGV, {}, None)
    child = int(await run(await pod.ready(), DAEMON))
    two = await link.start("r2", ARGV, {}, None)
    assert two.run == "r2"
    assert two.pid not in (None, one.pid)
    assert pod.kernels() == {two.pid}
    assert not alive(child)
    assert await run(await pod.ready(), "import os; print(os.getpid())") == str(two.pid)
    # The old kernel's end is never told as one of the new one.
    assert all(state.exit_code is None for state in pod.states)


#: How a kernel comes to be, by what differs; and what is in its command line.
PATHS: dict[str, tuple[dict[str, str], str, str]] = {
    "forked": ({}, "", "gpu_share_kernel"),
    "with a variable that is read at the start only": (EXECUTED, "", "ipykernel_launcher"),
    "where a module starts threads when it is imported": (
        {},
        "from gpu_share_kernel import zygote\nzygote._WARM += ('restless',)",
        "ipykernel_launcher",
    ),
    "after the importing process was lost": (
        {},
        "import os\nfrom gpu_share_kernel import zygote\nzygote._warm_up = lambda: os._exit(9)",
        "ipykernel_launcher",
    ),
}


@pytest.mark.parametrize("path", PATHS)
async def test_a_restart_stays_in_the_pod(path: str, pod: Pod) -> None:
    env, before, shows = PATHS[path]
    (pod.folder / "restless.py").write_text(
        "from threading import Event, Thread\nThread(target=Event().wait, daemon=True).start()\n"
    )
    pod.boot(before=before, path=(pod.folder,))
    agent = pod.pid()
    link = pod.link()
    pids = set()
    for name in ("r1", "r2", "r3"):
        state = await link.start(name, ARGV, env, None)
        assert state.pid is not None
        assert pod.kernels() == {state.pid}
        client = await pod.ready()
        assert shows in await run(client, f"print(open('/proc/self/cmdline').read()); {name} = 1")
        assert await run(client, "print([n for n in dir() if n in ('r1', 'r2', 'r3')])") == (
            f"['{name}']"
        )
        pids.add(state.pid)
    assert len(pids) == 3
    assert pod.pid() == agent
    assert alive(agent)


async def test_another_program_than_ipykernel_is_run_as_it_is(pod: Pod) -> None:
    pod.boot()
    argv = ["sh", "-c", "cp {connection_file} copy; echo $A $0; exit 5", "{connection_file}"]
    link = pod.link()
    await link.start("r1", argv, {"A": "said"}, None)
    await eventually(lambda: link.state and link.state.exit_code == 5, "it has run")
    assert f"said {pod.folder}/gpu-share-" in pod.said
    wire = json.loads((pod.folder / "copy").read_text())
    assert wire["shell_port"] == pod.connection.ports["shell"]
    assert wire["key"] == pod.connection.key.decode()


async def test_an_image_without_ipykernel_says_so(pod: Pod) -> None:
    fake = pod.folder / "lacking" / "ipykernel"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise ImportError('it is not in this image')")
    pod.boot(path=(fake.parent,))
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    await eventually(lambda: link.state and link.state.exit_code is not None, "the kernel ends")
    assert link.state is not None
    assert link.state.exit_code == 1
    assert link.state.exit_why == "ipykernel cannot be imported: it is not in this image"
    assert alive(pod.pid())


#: Commands and environments that no process can have; what is said about them, and the code.
IMPOSSIBLE: list[tuple[list[str], dict[str, str], str, int]] = [
    (["no-such-program"], {}, "No such file or directory: 'no-such-program'", 127),
    (["/"], {}, "Permission denied", 1),
    (["sh", "a\0b"], {}, "null byte", 1),
    (["sh"], {"A": "a\0b"}, "null byte", 1),
    ([], {}, "it could not be started", 1),
]


async def test_what_cannot_be_started_says_why(pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    for number, (argv, env, why, code) in enumerate(IMPOSSIBLE):
        state = await link.start(f"r{number}", argv, env, None)
        assert (state.pid, state.exit_code) == (None, code)
        assert why in state.exit_why
    assert (await link.start("good", ARGV, {}, None)).pid is not None


#: What the agent would stumble over if it took an order for granted.
NONSENSE: list[dict[str, Any]] = [
    {},
    {"argv": ARGV},
    {"env": {}},
    {"argv": None, "env": {}},
    {"argv": "sh", "env": {}},
    {"argv": {}, "env": {}},
    {"argv": [1, 2], "env": {}},
    {"argv": ["sh", None], "env": {}},
    {"argv": ARGV, "env": None},
    {"argv": ARGV, "env": {"A": 1}},
    {"argv": ARGV, "env": {"A=B": "1"}},
    {"argv": ["sh"], "env": {"A": None}},
    {"argv": ["sh"], "env": {}, "cwd": 7},
    {"argv": ["sh"], "env": {}, "drop": 7},
]


async def comes_to_nothing(peer: Peer, name: str, order: dict[str, Any]) -> None:
    """Have something started, and wait until its end is told."""
    await peer.say("start", run=name, **order)
    while (told := await peer.heard())["run"] != name or told["exit"] is None:
        pass
    assert told["pid"] is None


async def test_orders_that_make_no_sense_end_neither_agent_nor_pod(pod: Pod) -> None:
    pod.boot()
    peer = pod.peer()
    for number, order in enumerate(NONSENSE):
        await comes_to_nothing(peer, f"r{number}", order)
    link = pod.link()
    assert (await link.start("good", ARGV, {}, None)).pid is not None
    assert await run(await pod.ready(), "print('here')") == "here"


@pytest.mark.parametrize("order", [{}, {"argv": {}}, {"argv": ARGV}], ids=str)
async def test_nor_do_they_when_they_had_to_wait(order: dict[str, Any], pod: Pod) -> None:
    pod.boot(before=HELD)
    peer = pod.peer()
    await peer.say("start", run="early", **order)
    await peer.heard()
    (pod.folder / "go on").touch()
    await comes_to_nothing(peer, "early", order)
    assert (await pod.link().start("good", ARGV, {}, None)).pid is not None


async def test_an_end_while_it_still_imports_starts_nothing(pod: Pod) -> None:
    pod.boot(before=HELD)
    peer = pod.peer()
    await peer.say("start", run="r1", argv=ARGV, env={}, cwd=None)
    told = await peer.heard()
    assert (told["run"], told["pid"], told["exit"]) == ("r1", None, None)
    await peer.say("end")
    told = await peer.heard()
    assert told["exit"] == {"code": -signal.SIGKILL, "why": ""}
    (pod.folder / "go on").touch()
    link = pod.link()
    state = await link.start("r2", ARGV, {}, None)
    assert pod.kernels() == {state.pid}
    # Of r1 nothing was ever started: the agent made one process, which made one.
    assert len(descendants(pod.pid())) == 2


async def test_a_second_start_while_it_still_imports_is_the_one_that_counts(pod: Pod) -> None:
    pod.boot(before=HELD)
    peer = pod.peer()
    for name in ("r1", "r2"):
        await peer.say("start", run=name, argv=ARGV, env={"WHICH": name}, cwd=None)
        assert (await peer.heard())["run"] == name
    (pod.folder / "go on").touch()
    link = pod.link()
    state = await link.start("r2", ARGV, {"WHICH": "r2"}, None)
    assert pod.kernels() == {state.pid}
    assert await run(await pod.ready(), "import os; print(os.environ['WHICH'])") == "r2"


async def test_an_end_leaves_the_pod_for_the_next_kernel(pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    daemon = int(await run(await pod.ready(), DAEMON))
    await link.end(30.0)
    assert link.state is not None
    assert link.state.exit_code == -signal.SIGKILL
    assert not pod.kernels()
    assert not alive(daemon)
    assert (await link.start("r2", ARGV, {}, None)).pid is not None


async def test_answers_that_do_not_settle_a_start_are_not_answered_with_another(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.boot(before=HELD)
    link = pod.link()
    said: list[str] = []
    heard: list[Any] = []
    say, take = link._say, link._take

    async def note_said(message: dict[str, Any]) -> None:
        said.append(message["op"])
        await say(message)

    def note_heard(state: Any) -> None:
        heard.append(state)
        take(state)

    monkeypatch.setattr(link, "_say", note_said)
    monkeypatch.setattr(link, "_take", note_heard)
    began = time.monotonic()
    starting = asyncio.ensure_future(link.start("r1", ARGV, {}, None))
    for number in range(20):
        await link._say({"op": "renew"})
        await eventually(lambda number=number: len(heard) > number, "the agent answers")
    asked = 1 + (time.monotonic() - began) / _REPEAT
    assert 1 <= said.count("start") <= asked
    (pod.folder / "go on").touch()
    assert (await starting).pid is not None
