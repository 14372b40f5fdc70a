"""The works that bring a kernel up, and end it: start, stop, free."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from .._threads import in_thread, to_the_end
from ..allocations import Isolation
from ..engines.base import Connection, KernelRequest, Report, Running
from ..errors import GpuShareError, KernelStartError
from ..sentences import say, words_of
from ._context import WorkContext, relayed
from ._progress import following
from .saved import Note

__all__ = ["free", "meet", "start", "stop"]

_ABSENT = (
    "Nothing limits this kernel to its share: its command starts Python without "
    "PYTHONPATH (-I, -E, or an environment of its own). Its use of the GPU is watched, where the "
    "driver tells it."
)


async def start(
    context: WorkContext,
    request: KernelRequest,
    report: Report,
    *,
    again: bool,
    note: Note | None,
) -> Running:
    """Get a share and a process for a kernel, and put it behind the relay.

    However it ends other than by returning, no share is held and no process runs; what was saved
    for the kernel is still there if it is wanted ``again``.

    Parameters
    ----------
    note: of which notebook it is: one that starts anew says what was lost of it before.

    Raises
    ------
    GpuShareError: it cannot start.
    """
    relay, engine, kernel_id = context.relay, context.engine, context.kernel_id
    await relayed(relay.detach())
    await engine.stop(kernel_id, keep_share=True)
    if not again:
        await in_thread(context.keeper.discard)
    elif await in_thread(lambda: context.keeper.gone):
        raise KernelStartError(say("variables-gone"))
    running = await engine.start(request, report)
    try:
        present = await _attach(context, running, again=again, note=note)
    except BaseException:
        await to_the_end(_undo(context))
        raise
    if not present and running.share.isolation is Isolation.FRAMEWORK:
        # Nothing in the kernel reads what frameworks are told.
        relay.notify(_ABSENT)
        return replace(running, share=replace(running.share, isolation=Isolation.NONE))
    return running


async def _undo(context: WorkContext) -> None:
    await relayed(context.relay.detach())
    await context.engine.stop(context.kernel_id)


async def _attach(
    context: WorkContext, running: Running, *, again: bool, note: Note | None
) -> bool:
    """Put a new process behind the relay, with the variables that were kept for it.

    Whether this package's files are there in it. They are told to be ready, so that what the
    kernel's threads print stays under its cell whatever the kernel is asked later.
    """
    relay, keeper = context.relay, context.keeper
    subshells = relay.subshells
    await meet(context, running.connection, paused=True)
    present = await keeper.present()
    if running.away:
        await keeper.resume()
    if present and (not again or keeper.owes_words):
        await keeper.say_losses(note)
    if running.away or not (again and await in_thread(lambda: keeper.has_snapshot)):
        await relayed(relay.resume())
        return present
    try:
        async with following(context.say, "bringing-back"):
            restored = await keeper.load()
    except GpuShareError as error:
        raise KernelStartError(say("variables-not-back", cause=words_of(error))) from error
    if subshells:
        await keeper.make_subshells(subshells)
    # Once cells reach it, the variables are there, and nowhere else.
    await relayed(relay.resume(restored.line))
    await keeper.loaded(restored)
    return present


async def meet(context: WorkContext, connection: Connection, *, paused: bool) -> None:
    """Put a process behind the relay, unless it ends first or never answers.

    Raises
    ------
    KernelStartError
    """
    attached = asyncio.wrap_future(context.relay.attach(connection, paused=paused))
    try:
        ended = await context.engine.ended_before(
            context.kernel_id, attached, context.start_timeout
        )
    except asyncio.TimeoutError as error:
        raise KernelStartError(say("no-answer", patience=context.start_timeout)) from error
    if ended is not None:
        raise KernelStartError(say("ended-before-answer", cause=ended.reason))
    await attached


async def stop(context: WorkContext, *, keep_share: bool, keep_variables: bool) -> None:
    """End the process and take it from the relay. Goes to its end even if it is cancelled."""

    async def work() -> None:
        await relayed(context.relay.detach())
        try:
            await context.engine.stop(context.kernel_id, keep_share=keep_share)
        finally:
            if not keep_variables:
                await in_thread(context.keeper.discard)

    await to_the_end(work())


async def free(context: WorkContext) -> None:
    """Give back the share that was kept for a restart."""
    await to_the_end(context.engine.stop(context.kernel_id))
