"""How kernels and their pods end, and what the agent hears and passes on as the first process."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from agents import ARGV, DAEMON, HELD, Pod, as_first_process, both_ways, run
from processes import alive, children, command, descendants
from waiting import eventually

pytestmark = pytest.mark.slow

#: Writes down, in the agent's folder, what it is told; does not end by itself.
STUBBORN = """
import signal, time
def note(text):
    with open("told", "a") as file:
        file.write(text + " ")
signal.signal(signal.SIGTERM, lambda *_: note("SIGTERM"))
note("begun")
while True:
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        note("SIGINT")
"""
#: The same for a kernel that ends in order.
TIDY = """
import atexit
def note(text):
    with open("told", "a") as file:
        file.write(text + " ")
atexit.register(note, "atexit")
"""


def told(pod: Pod) -> str:
    """What the kernel has written down."""
    path = pod.folder / "told"
    return path.read_text() if path.exists() else ""


# -- kernels -----------------------------------------------------------------------------------

ENDS = {
    "import os; os._exit(7)": 7,
    "import os; os._exit(255)": 255,
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": -signal.SIGSEGV,
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
    "import os, signal; os.kill(os.getpid(), signal.SIGTERM)": -signal.SIGTERM,
    "exit()": 0,
}


@both_ways
async def test_how_a_kernel_ended_is_told(env: dict[str, str], pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    for number, (cell, code) in enumerate(ENDS.items()):
        await link.start(f"r{number}", ARGV, env, None)
        (await pod.ready()).execute(cell)
        await eventually(lambda: link.state and link.state.exit_code is not None, "it has ended")
        assert link.state is not None
        assert (link.state.run, link.state.pid) == (f"r{number}", None)
        assert (link.state.exit_code, link.state.exit_why) == (code, ""), cell
        assert alive(pod.pid()), "the pod stays for the next start"


@as_first_process
@both_ways
async def test_the_first_process_waits_for_all_that_lose_their_parent(
    env: dict[str, str], first: Pod
) -> None:
    first.boot()
    await first.link().start("r1", ARGV, env, None)
    client = await first.ready()
    code = """
    import os
    read, write = os.pipe()
    for _ in range(20):
        if os.fork() == 0:
            if os.fork() == 0:
                os.read(read, 1)
                os._exit(3)
            os._exit(0)
        os.wait()
    """
    await run(client, code)
    agent = first.pid()
    await eventually(lambda: len(children(agent)) > 20, "orphans are the agent's children")
    await run(client, "_ = os.write(write, b'.' * 20)")
    await eventually(
        lambda: all(row.alive for row in descendants(agent)) and len(children(agent)) <= 2,
        "nothing of them is left",
    )
    assert await run(client, "print('here')") == "here"


async def test_what_a_kernel_left_running_ends_with_it(pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    client = await pod.ready()
    daemon = int(await run(client, DAEMON))
    plain = "import subprocess; p = subprocess.Popen(['sleep', '600']{}); print(p.pid)"
    child = int(await run(client, plain.format("")))
    apart = int(await run(client, plain.format(", start_new_session=True")))
    client.execute("import os; os._exit(0)")
    await eventually(lambda: link.state and link.state.exit_code == 0, "the end is told")
    await eventually(
        lambda: not any(map(alive, (daemon, child, apart))), "what it left is ended too"
    )
    assert alive(pod.zygote())
    assert "gpu_share_kernel" in command(pod.zygote())


# -- signals -----------------------------------------------------------------------------------


@both_ways
async def test_a_signal_reaches_the_kernel_and_its_children(env: dict[str, str], pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    await link.start("r1", ARGV, env, None)
    client = await pod.ready()
    await run(client, "got = []; import signal; signal.signal(10, lambda *a: got.append(a[0]))")
    await run(client, "import subprocess; p = subprocess.Popen(['sleep', '600'])")
    await link.signal(signal.SIGUSR1)
    # The child has no handler for it.
    assert await run(client, "print(p.wait(), got)") == f"{-signal.SIGUSR1} [10]"


@both_ways
async def test_a_signal_may_be_for_the_kernel_alone(env: dict[str, str], pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    await link.start("r1", ARGV, env, None)
    client = await pod.ready()
    await run(client, "got = []; import signal; signal.signal(10, lambda *a: got.append(a[0]))")
    await run(client, "import subprocess; p = subprocess.Popen(['sleep', '600'])")
    await link.signal(signal.SIGUSR1, alone=True)
    await run(client, "while not got: pass")
    assert await run(client, "print(p.poll(), got)") == "None [10]"


@both_ways
async def test_an_interrupt_stops_the_cell_and_nothing_else(env: dict[str, str], pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    state = await link.start("r1", ARGV, env, None)
    client = await pod.ready()
    code = "x = 41\nopen('begun', 'w').close()\nimport time\ntime.sleep(600)"
    cell = asyncio.ensure_future(run(client, code))
    await eventually((pod.folder / "begun").exists, "the cell runs")
    await link.signal(signal.SIGINT)
    assert await cell == "KeyboardInterrupt:"
    assert await run(client, "print(x + 1)") == "42"
    assert pod.kernels() == {state.pid}
    assert alive(pod.zygote())


async def test_what_is_no_signal_does_no_harm(pod: Pod) -> None:
    pod.boot()
    state = await pod.link().start("r1", ARGV, {}, None)
    peer = pod.peer()
    numbers: list[Any] = [0, -1, 64 + 7, 9999, 2**70, "9", None, [], 1.5]
    for number in numbers:
        await peer.say("signal", signum=number)
        await peer.say("renew")
        assert (await peer.heard())["pid"] == state.pid
    assert pod.kernels() == {state.pid}


async def test_a_signal_without_a_kernel_is_nothing(pod: Pod) -> None:
    pod.boot()
    peer = pod.peer()
    await peer.say("signal", signum=signal.SIGKILL)
    answer = await peer.heard()
    assert (answer["run"], answer["pid"], answer["exit"]) == (None, None, None)


# -- the pod is told to end --------------------------------------------------------------------


@as_first_process
@both_ways
async def test_when_the_pod_ends_the_kernel_tidies_up_first(
    env: dict[str, str], first: Pod
) -> None:
    first.boot()
    link = first.link()
    await link.start("r1", ARGV, env, None)
    await run(await first.ready(), TIDY)
    os.kill(first.pid(), signal.SIGTERM)
    assert await first.gone() == 0
    assert told(first) == "atexit "
    # Jupyter's own way of ending, no signal: the code is that of a kernel that was shut down.
    await eventually(lambda: link.state and link.state.exit_code == 0, "the end is told")
    assert link.state is not None
    assert link.state.exit_why == "terminated"


@both_ways
async def test_a_running_cell_hears_of_the_end(env: dict[str, str], pod: Pod) -> None:
    pod.boot()
    await pod.link().start("r1", ARGV, env, None)
    client = await pod.ready()
    await run(client, TIDY)
    client.execute(
        "import time\nnote('begun')\ntry:\n    time.sleep(600)\n"
        "except KeyboardInterrupt:\n    note('interrupted')"
    )
    await eventually(lambda: told(pod) == "begun ", "the cell runs")
    os.kill(pod.pid(), signal.SIGTERM)
    assert await pod.gone() == 0
    assert told(pod) == "begun interrupted atexit "
    assert not pod.left()


async def test_a_kernel_that_does_not_end_is_asked_twice_and_then_killed(pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    client = await pod.ready()
    daemon = int(await run(client, DAEMON))
    client.execute(STUBBORN)
    await eventually(lambda: told(pod) == "begun ", "the cell runs")
    agent = pod.pid()
    os.kill(agent, signal.SIGTERM)
    await eventually(lambda: told(pod) == "begun SIGINT ", "the cell was interrupted")
    # Neither another SIGTERM nor a start changes anything any more.
    os.kill(agent, signal.SIGTERM)
    peer = pod.peer()
    await peer.say("start", run="r2", argv=ARGV, env={}, cwd=None)
    assert (await peer.heard())["run"] == "r1"
    assert await pod.gone() == 128 + signal.SIGKILL
    assert told(pod) == "begun SIGINT SIGTERM "
    assert not alive(daemon)
    assert not pod.left()
    await eventually(lambda: link.state and link.state.exit_code is not None, "the end is told")
    assert link.state is not None
    assert (link.state.exit_code, link.state.exit_why) == (-signal.SIGKILL, "terminated")


async def test_a_kernel_that_ends_at_the_second_word(pod: Pod) -> None:
    """Its main thread is busy in C, as NumPy may be: only SIGTERM's default action reaches it."""
    pod.boot()
    await pod.link().start("r1", ARGV, {}, None)
    client = await pod.ready()
    busy = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nopen('told', 'w').write('begun ')"
    client.execute(f"import signal, time\n{busy}\ntime.sleep(600)")
    await eventually(lambda: told(pod) == "begun ", "the cell runs")
    os.kill(pod.pid(), signal.SIGTERM)
    assert await pod.gone() == 128 + signal.SIGTERM
    assert not pod.left()


@as_first_process
async def test_a_pod_without_a_kernel_ends_at_once(first: Pod) -> None:
    first.boot()
    peer = first.peer()
    await peer.say("renew")
    await peer.heard()
    os.kill(first.pid(), signal.SIGTERM)
    assert await first.gone() == 0
    assert not first.left()


@as_first_process
async def test_a_pod_that_still_imports_ends_at_once(first: Pod) -> None:
    first.boot(before=HELD)
    peer = first.peer()
    await peer.say("start", run="r1", argv=ARGV, env={}, cwd=None)
    await peer.heard()
    os.kill(first.pid(), signal.SIGINT)
    assert await first.gone() == 0
    assert not first.left()


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("import os; os._exit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 128 + signal.SIGSEGV),
    ],
)
async def test_the_pods_exit_code_is_the_kernels_last_one(cell: str, code: int, pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    (await pod.ready()).execute(cell)
    await eventually(lambda: link.state and link.state.exit_code is not None, "it has ended")
    os.kill(pod.pid(), signal.SIGTERM)
    assert await pod.gone() == code


@both_ways
async def test_a_server_that_needs_the_pod_no_more_ends_it_at_once(
    env: dict[str, str], pod: Pod
) -> None:
    pod.boot()
    link = pod.link()
    await link.start("r1", ARGV, env, None)
    client = await pod.ready()
    daemon = int(await run(client, DAEMON))
    client.execute(STUBBORN)
    await eventually(lambda: told(pod) == "begun ", "the cell runs")
    await link.quit()
    assert await pod.gone() == 0
    assert told(pod) == "begun ", "nobody was asked"
    assert not alive(daemon)
    assert not pod.left()
    await eventually(lambda: link.state and link.state.exit_code is not None, "the end is told")
    assert link.state is not None
    # It was not the cluster that ended it.
    assert (link.state.exit_code, link.state.exit_why) == (-signal.SIGKILL, "")


async def test_a_server_can_cut_short_an_end_that_takes_long(pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    (await pod.ready()).execute(STUBBORN)
    await eventually(lambda: told(pod) == "begun ", "the cell runs")
    os.kill(pod.pid(), signal.SIGTERM)
    await eventually(lambda: told(pod) == "begun SIGINT ", "the end has begun")
    await link.quit()
    assert await pod.gone() == 0
    assert told(pod) == "begun SIGINT "
    assert not pod.left()


# -- nobody is there any more ------------------------------------------------------------------


@as_first_process
async def test_a_pod_that_no_server_renews_ends_in_order(first: Pod) -> None:
    log = first.folder / "termination-log"
    log.touch()
    before = f"from gpu_share_kernel import farewell\nfarewell._TERMINATION_LOG = {str(log)!r}\n"
    first.boot(watchdog=3.0, before=before)
    link = first.link(renewal=0.2)
    await link.start("r1", ARGV, {}, None)
    await run(await first.ready(), TIDY)
    await link.close()
    assert await first.gone() == 0
    assert told(first) == "atexit "
    assert "no Jupyter server was heard for 3 s; the pod ends" in first.said
    assert log.read_text() == "no Jupyter server was heard for 3 s"


async def test_a_pod_that_no_server_ever_found_ends(pod: Pod) -> None:
    # Outside of a pod nobody would read a last word.
    log = pod.folder / "termination-log"
    before = f"from gpu_share_kernel import farewell\nfarewell._TERMINATION_LOG = {str(log)!r}\n"
    pod.boot(watchdog=0.5, before=before)
    assert await pod.gone() == 0
    assert not log.exists()
    assert not pod.left()


async def test_a_pod_that_is_renewed_lives_on(pod: Pod) -> None:
    """Longer than its watchdog; words of those who do not know the keys are no renewal."""
    pod.boot(watchdog=2.0)
    agent = pod.pid()
    peer, stranger = pod.peer(), pod.peer(key=b"wrong")
    loop = asyncio.get_running_loop()
    end = loop.time() + 5.0
    while loop.time() < end:
        await peer.say("renew")
        await peer.heard()
        await asyncio.sleep(0.1)
    assert alive(agent)
    ended = asyncio.ensure_future(pod.gone())
    while not ended.done():
        await stranger.say("renew")
        await peer.say("renew", instance="another", replaces="not the owner")
        await asyncio.sleep(0.1)
    assert await ended == 0
