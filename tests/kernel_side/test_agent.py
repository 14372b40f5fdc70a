"""The first process of a kernel's pod, run for real as a process of this machine."""

from __future__ import annotations

from collections.abc import Callable

from agents import ARGV, Pod, as_first_process, run


async def test_a_kernel_answers_over_an_encrypted_wire(pod: Pod) -> None:
    pod.boot()
    state = await pod.link().start("r1", ARGV, {}, None)
    client = await pod.ready()
    assert await run(client, "import os; print(os.getpid())") == str(state.pid)


async def test_it_works_without_encryption_for_an_old_ipykernel(pod_of: Callable[..., Pod]) -> None:
    pod = pod_of(encrypt=False)
    pod.boot()
    await pod.link().start("r1", ARGV, {}, None)
    assert await run(await pod.ready(), "print('here')") == "here"


@as_first_process
async def test_it_works_as_the_first_process(first: Pod) -> None:
    first.boot()
    state = await first.link().start("r1", ARGV, {}, None)
    client = await first.ready()
    assert await run(client, "import os; print(os.getpid())") == str(state.pid)
