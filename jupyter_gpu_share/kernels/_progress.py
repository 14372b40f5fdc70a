"""How far a work is that takes more than a moment, for whoever looks at the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from .._threads import in_thread, stopped
from ..sentences import say as sentence

__all__ = ["Progress", "following"]

#: Takes what is said; an empty text where there is nothing to say any more.
Progress = Callable[[str], None]

#: Seconds until something is said, and between two times.
_EVERY = 1.0


@asynccontextmanager
async def following(
    say: Progress, doing: str, done: Callable[[], int] | None = None
) -> AsyncIterator[None]:
    """Within the block say how far it is, once it has taken more than a second.

    Parameters
    ----------
    doing: code of the sentence that says what is done, such as ``saving``.
    done: bytes so far; may block. None where that is not known.
    """
    follower = asyncio.ensure_future(_follow(say, doing, done))
    try:
        yield
    finally:
        follower.cancel()
        say("")
        await stopped(follower)


async def _follow(say: Progress, doing: str, done: Callable[[], int] | None) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while True:
        await asyncio.sleep(_EVERY)
        size = await in_thread(done) if done is not None else 0
        time = loop.time() - begun
        if size:
            say(sentence(f"{doing}-of", done=size, time=time))
        else:
            say(sentence(doing, time=time))
