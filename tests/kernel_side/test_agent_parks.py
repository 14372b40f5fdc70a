"""A kernel whose server has no time left: its agent takes it off its GPU, and the next finds it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from agents import ARGV, GIB, Pod, run, share_of_simulated
from jupyter_client import AsyncKernelClient
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.kubernetes._link import AgentLink, AgentState, Owned
from jupyter_gpu_share.engines.kubernetes._parked import Parked, park

pytestmark = pytest.mark.slow

LONG = 3600.0
COMPUTE = """
from gpu_share_kernel import simulated
memory = simulated.allocate("3GiB")
x = 41
"""
LOOK = "print(x, simulated.memory()[0])"
#: Tells by a file that it has begun, and goes on until another is there.
HELD = """
import os, time
open("begun", "w").close()
while not os.path.exists("go on"):
    time.sleep(0.01)
x += 1
"""
STUBBORN = """
import time
open("begun", "w").close()
interrupts = 0
while interrupts < 3:
    try:
        time.sleep(1000)
    except KeyboardInterrupt:
        interrupts += 1
        open("interrupted%d" % interrupts, "w").close()
"""
#: A kernel in name: it answers every request in order, as one of another language.
OTHER = """
import json, sys
from jupyter_client.session import Session
import zmq
wire = json.load(open(sys.argv[1]))
session = Session(key=wire["key"].encode(), signature_scheme=wire["signature_scheme"])
context = zmq.Context()
poller = zmq.Poller()
for channel in ("shell", "control", "iopub"):
    socket = context.socket(zmq.PUB if channel == "iopub" else zmq.ROUTER)
    socket.curve_server = 1
    socket.curve_publickey = wire["curve_publickey"].encode()
    socket.curve_secretkey = wire["curve_secretkey"].encode()
    socket.bind("tcp://%s:%d" % (wire["ip"], wire[channel + "_port"]))
    if channel != "iopub":
        poller.register(socket, zmq.POLLIN)
while True:
    for socket, _ in poller.poll():
        ident, message = session.recv(socket)
        kind = message["header"]["msg_type"]
        with open("asked", "a") as file:
            file.write(kind + "\\n")
        if kind == "kernel_info_request":
            content = {"status": "ok", "language_info": {"name": "R"}}
            session.send(socket, "kernel_info_reply", content, parent=message, ident=ident)
"""


async def begun(pod: Pod, name: str = "begun") -> None:
    await eventually((pod.folder / name).exists, f"{name}; the agent said {pod.said}")


async def started(pod: Pod, **more: Any) -> AsyncKernelClient:
    """A kernel with 3 GiB of its share in use, whose server ends without a word."""
    pod.boot(**more)
    link = pod.link("server", renewal=LONG)
    await link.start("r1", ARGV, share_of_simulated(pod.folder), None)
    client = await pod.ready()
    await run(client, COMPUTE)
    await link.close()
    return client


async def parked(
    pod: Pod,
    *,
    before: str = "server",
    instance: str = "broker",
    vacate: bool = True,
    watchdog: float = LONG,
    patience: float = PATIENCE,
    ends: bool = False,
    **other: Any,
) -> Parked:
    connection = (
        pod.connection if not other else type(pod.connection)(**{**vars(pod.connection), **other})
    )
    asked = park(
        connection,
        instance=instance,
        before=before,
        vacate=vacate,
        watchdog=watchdog,
        patience=patience,
        context=pod.context,
        ends=ends,
        port=pod.port,
    )
    return await asyncio.wait_for(asked, 3 * PATIENCE)


def in_use(pod: Pod) -> int:
    """Bytes of the simulated GPU that the pod's processes say they have."""
    found = [json.loads(path.read_text()) for path in (pod.folder / "simulated").glob("*.json")]
    return sum(sum(row["used"].values()) for row in found)


async def under_way(pod: Pod) -> AgentLink:
    """Wait until the order has reached the agent; a link to it of who gave it."""
    link = pod.link("broker", replaces="server")
    await asyncio.wait_for(link.greet(), PATIENCE)
    await eventually(lambda: link.state and link.state.parking, "it is being parked")
    return link


async def taken_over(pod: Pod, before: str = "broker", instance: str = "next") -> AgentLink:
    link = pod.link(instance, replaces=before)
    await asyncio.wait_for(link.greet(), PATIENCE)
    return link


async def back(client: AsyncKernelClient) -> str:
    """As a server that takes the kernel over has it move back, by the same question."""
    return await run(client, f"from gpu_share_kernel import vacate; vacate.resume(); {LOOK}")


async def test_an_idle_kernel_leaves_its_gpu_and_is_taken_over_with_its_variables(pod: Pod) -> None:
    client = await started(pod)
    assert in_use(pod) == 3 * GIB
    assert await parked(pod) == Parked(True)
    assert in_use(pod) == 0
    link = await taken_over(pod)
    assert link.state is not None
    assert (link.state.run, link.state.parked) == ("r1", False)
    assert link.state.pid is not None
    assert await back(client) == f"41 {3 * GIB}"
    assert await run(client, "print(len(In))") == "4", "nothing of it is in the history"


async def test_it_works_without_encryption(pod_of: Any) -> None:
    pod = pod_of(encrypt=False)
    client = await started(pod)
    assert await parked(pod) == Parked(True)
    assert await back(client) == f"41 {3 * GIB}"


async def test_a_cell_gets_the_time_to_end(pod: Pod) -> None:
    client = await started(pod)
    client.execute(HELD)
    await begun(pod)
    asked = asyncio.ensure_future(parked(pod, patience=LONG))
    await under_way(pod)
    assert not asked.done()
    (pod.folder / "go on").touch()
    assert await asked == Parked(True)
    await taken_over(pod)
    assert await back(client) == f"42 {3 * GIB}"


async def test_a_cell_that_goes_on_is_interrupted_and_so_are_those_behind_it(pod: Pod) -> None:
    client = await started(pod)
    client.execute(HELD)
    client.execute("x = 'never'")
    await begun(pod)
    assert await parked(pod, patience=8.0) == Parked(True)
    assert in_use(pod) == 0
    await taken_over(pod)
    assert await back(client) == f"41 {3 * GIB}"


async def test_a_cell_that_no_interrupt_ends_keeps_the_share_and_that_is_told(pod: Pod) -> None:
    client = await started(pod)
    client.execute(STUBBORN)
    await begun(pod)
    told = await parked(pod, patience=4.0)
    assert not told.vacated
    assert "although it was interrupted" in told.why
    assert (pod.folder / "interrupted1").exists()
    assert not (pod.folder / "interrupted2").exists(), "it is interrupted once"
    assert in_use(pod) == 3 * GIB
    # As it was: a server that comes in time has a kernel that computes.
    link = await taken_over(pod)
    for number in (2, 3):
        await link.signal(signal.SIGINT)
        await begun(pod, f"interrupted{number}")
    assert await run(client, LOOK) == f"41 {3 * GIB}"


async def test_a_cell_in_a_subshell_is_waited_for(pod: Pod) -> None:
    client = await started(pod)
    client.control_channel.send(client.session.msg("create_subshell_request"))
    reply = await asyncio.wait_for(client.get_control_msg(), PATIENCE)
    message = client.session.msg("execute_request", {"code": HELD, "silent": False})
    message["header"]["subshell_id"] = reply["content"]["subshell_id"]
    client.shell_channel.send(message)
    await begun(pod)
    told = await parked(pod, patience=2.0)
    assert not told.vacated
    assert "subshell" in told.why
    assert in_use(pod) == 3 * GIB
    (pod.folder / "go on").touch()
    assert await parked(pod, before="") == Parked(True)


async def test_a_kernel_of_another_language_is_told_nothing(pod: Pod) -> None:
    pod.boot()
    link = pod.link("server")
    argv = [sys.executable, "-c", OTHER, "{connection_file}"]
    await link.start("r1", argv, share_of_simulated(pod.folder), None)
    await link.close()
    told = await parked(pod)
    assert not told.vacated
    assert "Python" in told.why
    asked = set((pod.folder / "asked").read_text().split())
    assert asked == {"kernel_info_request"}


async def test_said_twice_it_is_one_order(pod: Pod) -> None:
    client = await started(pod)
    client.execute(STUBBORN)
    await begun(pod)
    peer = pod.peer()
    order = {"park": "p1", "vacate": True, "watchdog": LONG, "patience": 2.0}
    await peer.say("park", instance="broker", replaces="server", **order)
    await peer.say("park", instance="broker", **order)
    while not (answer := await peer.heard())["park_why"]:
        assert (answer["parking"], answer["parked"]) == ("p1", False)
    assert (pod.folder / "interrupted1").exists()
    assert not (pod.folder / "interrupted2").exists(), "it is interrupted once"
    await peer.say("park", instance="broker", **order)
    assert (await peer.heard())["park_why"] == answer["park_why"], "it is not begun again"
    # Another order is another try.
    await peer.say("park", instance="broker", **{**order, "park": "p2"})
    while (answer := await peer.heard())["parking"] == "p1":
        pass
    assert (answer["parking"], answer["parked"], answer["park_why"]) == ("p2", False, "")


async def test_a_parked_kernel_can_be_parked_again(pod: Pod) -> None:
    client = await started(pod)
    assert await parked(pod) == Parked(True)
    assert await parked(pod, before="broker", instance="another") == Parked(True)
    assert in_use(pod) == 0
    await taken_over(pod, "another")
    assert await back(client) == f"41 {3 * GIB}"


async def test_only_who_has_the_key_and_the_pod_can_order_it(pod: Pod) -> None:
    await started(pod)
    order = {"park": "p1", "vacate": True, "watchdog": LONG, "patience": PATIENCE}
    forger = pod.peer(key=b"another key")
    await forger.say("park", instance="server", **order)
    other = pod.peer()
    await other.say("park", instance="broker", **order)
    assert (await other.heard())["op"] == "refused"
    with pytest.raises(Owned):
        await parked(pod, before="somebody else")
    await other.say("renew", instance="server")
    assert (await other.heard())["parking"] is None
    assert in_use(pod) == 3 * GIB


@pytest.mark.parametrize(
    "wrong", [{"watchdog": -1}, {"patience": "no"}, {"vacate": 1}, {"park": 2}]
)
async def test_an_order_that_makes_no_sense_is_not_followed(pod: Pod, wrong: Any) -> None:
    pod.boot()
    peer = pod.peer()
    order = {"park": "p1", "vacate": False, "watchdog": LONG, "patience": PATIENCE, **wrong}
    await peer.say("park", **order)
    await peer.say("renew")
    assert (await peer.heard())["parking"] is None


@pytest.mark.parametrize("vacate", [True, False])
async def test_a_parked_kernel_lives_on_without_a_server(pod: Pod, vacate: bool) -> None:
    """Until the watchdog that it was parked with; then its pod ends as any other."""
    await started(pod, watchdog=3.0)
    begin = time.monotonic()
    assert await parked(pod, vacate=vacate, watchdog=9.0) == Parked(True)
    assert in_use(pod) == (0 if vacate else 3 * GIB)
    assert await pod.gone() == 0
    assert time.monotonic() - begin >= 9.0
    assert "no Jupyter server was heard for 9 s" in pod.said
    assert not pod.left()


async def test_the_watchdog_is_the_old_one_for_the_next_server(pod: Pod) -> None:
    await started(pod, watchdog=3.0)
    assert await parked(pod, watchdog=LONG) == Parked(True)
    link = await taken_over(pod)
    await link.close()
    assert await pod.gone() == 0
    assert "no Jupyter server was heard for 3 s" in pod.said


async def test_a_pod_without_a_kernel_has_nothing_to_park(pod: Pod) -> None:
    pod.boot()
    told = await parked(pod, before="")
    assert told == Parked(False, "No kernel runs in the pod.")


async def test_a_kernel_that_ends_meanwhile_is_not_taken_for_parked(pod: Pod) -> None:
    client = await started(pod)
    client.execute("open('begun', 'w').close(); import time; time.sleep(1000)")
    await begun(pod)
    asked = asyncio.ensure_future(parked(pod, patience=LONG))
    link = await under_way(pod)
    assert link.state is not None
    os.kill(pod.outside(link.state.pid), signal.SIGKILL)
    assert await asked == Parked(False, "The kernel has ended.")


async def test_a_parked_kernel_that_ends_is_parked_no_more(pod: Pod) -> None:
    await started(pod)
    assert await parked(pod) == Parked(True)
    link = pod.link("broker")
    state = await asyncio.wait_for(link.greet(), PATIENCE)
    assert state.parked
    os.kill(pod.outside(state.pid), signal.SIGKILL)
    await eventually(lambda: link.state and not link.state.parked, "that is told")
    assert link.state.park_why == "The kernel has ended."


async def test_a_server_that_comes_meanwhile_has_the_kernel(pod: Pod) -> None:
    client = await started(pod)
    client.execute(HELD)
    await begun(pod)
    asked = asyncio.ensure_future(parked(pod, patience=LONG))
    await (await under_way(pod)).close()
    link = await taken_over(pod)
    with pytest.raises(Owned):
        await asked
    assert link.state is not None
    assert (link.state.parked, link.state.park_why) == (
        False,
        "Another server has taken the kernel over.",
    )
    (pod.folder / "go on").touch()
    assert await run(client, LOOK) == f"42 {3 * GIB}"


async def test_a_question_that_is_lost_is_asked_again(pod: Pod) -> None:
    """As an interrupt, or a cell that fails, has it be lost. Here every other answer is dropped."""
    before = (
        "from gpu_share_kernel.own_client import OwnClient\n"
        "real, asked = OwnClient.read, []\n"
        "def read(self, frames):\n"
        "    message = real(self, frames)\n"
        "    if message is None or message[1] not in ('execute_reply', 'gpu_share_answer'):\n"
        "        return message\n"
        "    if message[0] not in asked:\n"
        "        asked.append(message[0])\n"
        "    return message if asked.index(message[0]) % 2 else None\n"
        "OwnClient.read = read\n"
    )
    client = await started(pod, before=before)
    assert await parked(pod) == Parked(True)
    assert in_use(pod) == 0
    assert await back(client) == f"41 {3 * GIB}"


async def test_memory_that_is_not_seen_free_brings_the_kernel_back(pod: Pod) -> None:
    """Here the fault is put into the agent's reading."""
    before = (
        "from gpu_share_kernel import parking, readings\n"
        "parking._FREE_PATIENCE = 0.3\n"
        "readings.Use.read = lambda *_: (5 * 2**30, 0.0)\n"
    )
    client = await started(pod, before=before)
    told = await parked(pod)
    assert told == Parked(False, "5120 MiB are still in use on its GPU.")
    assert in_use(pod) == 3 * GIB
    assert await run(client, LOOK) == f"41 {3 * GIB}"


async def test_a_kernel_that_cannot_be_moved_says_why(pod: Pod) -> None:
    """One without a share on a GPU has nothing that could be given back."""
    pod.boot()
    link = pod.link("server")
    await link.start("r1", ARGV, {}, None)
    await pod.ready()
    await link.close()
    assert await parked(pod) == Parked(False, "The kernel holds no share.")


async def test_an_agent_that_is_not_reached_is_not_waited_for(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the user's keys are no pair: the share is held for as long."""
    monkeypatch.setattr("jupyter_gpu_share.engines.kubernetes._parked._GREETING", 0.5)
    pod.boot()
    told = await asyncio.wait_for(parked(pod, key=b"another key", patience=LONG), PATIENCE)
    assert told == Parked(False, "The kernel's agent did not answer in time.")


async def test_a_kernel_that_stays_on_its_gpu_ends_in_order_where_nobody_comes(pod: Pod) -> None:
    """It does not wait for the word of a server that is gone until it is killed."""
    pod.boot()
    link = pod.link("server")
    await link.start("r1", ARGV, {}, None)
    client = await pod.ready()
    bye = "import atexit; atexit.register(lambda: open('bye', 'w').close())"
    await run(client, bye)
    await link.close()
    assert await parked(pod, ends=True) == Parked(False, "The kernel holds no share.")
    await eventually(lambda: (pod.folder / "bye").exists(), "it has ended in order")
    await eventually(lambda: pod.process.poll() is not None, "its pod has ended")


async def test_a_pod_of_an_older_version_is_left_alone(pod: Pod, tmp_path: Path) -> None:
    """Its agent neither knows the order nor tells of it."""
    before = (
        "from gpu_share_kernel.parking import Parker\n"
        "Parker.state = {}\n"
        "Parker.begin = lambda *_: 1 / 0\n"
    )
    await started(pod, before=before)
    told = await parked(pod)
    assert not told.vacated
    assert "older version" in told.why
    assert in_use(pod) == 3 * GIB


@pytest.mark.parametrize(
    ("background", "vacate", "why"),
    [
        ([], {"how": "cuda", "why": ""}, ""),
        (["thread `a`"], {"how": "nothing", "why": ""}, ""),
        (["thread `a`"], {"how": "simulated", "why": ""}, ""),
        (["thread `a`"], {"how": "cuda", "why": ""}, "while this runs in it: thread `a`"),
        ([], {"how": "none", "why": "It maps memory of others."}, "It maps memory of others."),
        ([], None, "does not say"),
        (7, {"how": "cuda"}, "something"),
    ],
)
def test_what_the_kernel_tells_of_itself_decides(background: Any, vacate: Any, why: str) -> None:
    """By the same rule as where a server asks: with CUDA nothing else may work in it."""
    from gpu_share_kernel.parking import _hindrance

    told = _hindrance({"background": background, "vacate": vacate})
    assert why in told
    assert bool(why) == bool(told)


def test_what_an_agent_tells_of_it_is_bounded() -> None:
    from jupyter_gpu_share.engines.kubernetes._link import _state

    told = {"run": None, "pid": None, "exit": None, "reading": None}
    state = _state({**told, "parking": "p", "parked": False, "park_why": "long \n" * 9999})
    assert state == AgentState(parks=True, parking="p", park_why=state.park_why)
    assert len(state.park_why) <= 300
    assert "\n" not in state.park_why
    for wrong in ({"parking": 1}, {"parked": "yes"}, {"park_why": None}):
        with pytest.raises(TypeError):
            _state({**told, **wrong})
