"""A pod that others end: its kernel stays for as long as a server saves its variables."""

from __future__ import annotations

import os
import signal

import pytest
from agents import ARGV, Pod, run
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes._link import AgentLink

pytestmark = pytest.mark.slow

LONG_GRACE = 3600.0


async def told_to_end(pod: Pod, link: AgentLink) -> None:
    """Have somebody end the pod, and wait until the server hears of it."""
    os.kill(pod.pid(), signal.SIGTERM)
    await eventually(lambda: link.state and link.state.leaving, "the server is told")


async def test_the_kernel_goes_on_until_the_server_lets_go_of_it(pod: Pod) -> None:
    pod.boot(grace=LONG_GRACE)
    link = pod.link()
    state = await link.start("r1", ARGV, {}, None)
    client = await pod.ready()
    await run(client, "x = 41")
    await told_to_end(pod, link)
    assert await run(client, "print(x + 1)") == "42"
    assert link.state is not None
    assert (link.state.pid, link.state.exit_code) == (state.pid, None)
    os.kill(pod.pid(), signal.SIGTERM)  # said twice, it is not another thing
    assert await run(client, "print(x + 1)") == "42"
    await link.leave()
    assert await pod.gone() == 0
    await eventually(lambda: link.state and link.state.exit_code == 0, "the end is told")
    assert link.state.exit_why == "terminated"
    assert not link.state.leaving
    assert not pod.left()


async def test_a_server_that_has_saved_everything_ends_it_at_once(pod: Pod) -> None:
    pod.boot(grace=LONG_GRACE)
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    await pod.ready()
    await told_to_end(pod, link)
    await link.quit()
    assert await pod.gone() == 0
    assert not pod.left()


async def test_nobody_waits_for_a_server_that_is_silent(pod: Pod) -> None:
    pod.boot(grace=LONG_GRACE)
    link = pod.link(renewal=0.2)
    await link.start("r1", ARGV, {}, None)
    await pod.ready()
    await told_to_end(pod, link)
    await link.close()
    assert await pod.gone() == 0
    assert not pod.left()


async def test_nobody_waits_for_a_server_that_has_long_been_silent(pod: Pod) -> None:
    pod.boot(grace=LONG_GRACE, watchdog=LONG_GRACE)
    link = pod.link(renewal=0.2)
    await link.start("r1", ARGV, {}, None)
    await pod.ready()
    await link.close()
    os.kill(pod.pid(), signal.SIGTERM)
    assert await pod.gone() == 0


async def test_the_server_has_no_longer_than_the_grace(pod: Pod) -> None:
    """Six seconds less: in these the kernel ends in order, as without a server."""
    pod.boot(grace=7.0)
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    await pod.ready()
    os.kill(pod.pid(), signal.SIGTERM)
    assert await pod.gone() == 0
    await eventually(lambda: link.state and link.state.exit_code == 0, "the end is told")


async def test_a_kernel_that_ends_by_itself_is_waited_for_no_more(pod: Pod) -> None:
    pod.boot(grace=LONG_GRACE)
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    client = await pod.ready()
    await told_to_end(pod, link)
    client.execute("import os; os._exit(7)")
    assert await pod.gone() == 7


async def test_nothing_is_started_any_more_in_a_pod_that_is_to_end(pod: Pod) -> None:
    pod.boot(grace=LONG_GRACE)
    link = pod.link()
    state = await link.start("r1", ARGV, {}, None)
    await pod.ready()
    await told_to_end(pod, link)
    peer = pod.peer()
    await peer.say("start", instance=link._instance, run="r2", argv=ARGV, env={}, cwd=None)
    answer = await peer.heard()
    assert (answer["run"], answer["pid"], answer["leaving"]) == ("r1", state.pid, True)


async def test_a_pod_without_a_kernel_waits_for_nobody(pod: Pod) -> None:
    pod.boot(grace=LONG_GRACE)
    peer = pod.peer()
    await peer.say("renew")
    await peer.heard()
    os.kill(pod.pid(), signal.SIGTERM)
    assert await pod.gone() == 0
