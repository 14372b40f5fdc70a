"""Questions that a kernel is asked between its user's cells, through ``gpu_share_kernel.asked``."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Any

from .._text import one_line
from ..engines.base import Engine
from ..errors import GpuShareError
from ..relay import Answer, Relay
from ..sentences import say

__all__ = ["LONG", "SHORT", "Questions", "amount", "rows", "text", "texts"]

#: Seconds that a kernel has to answer what takes no time, and what takes as long as its data.
SHORT, LONG = 20.0, 600.0
#: Seconds between two interrupts of a question that nobody waits for any more, and how many.
_INTERRUPT_INTERVAL, _INTERRUPTS = 1.0, 5
#: What a kernel says is shown to its user: so much of it.
_LONGEST, _MOST = 200, 50


class Questions:
    """Asks one kernel, which has to be paused."""

    def __init__(self, relay: Relay, engine: Engine, kernel_id: str) -> None:
        self._relay = relay
        self._engine = engine
        self._kernel_id = kernel_id

    async def told(
        self, what: str, *, patience: float = SHORT, interruptible: bool = False, **arguments: Any
    ) -> dict[str, Any]:
        """What is answered as a dict; empty where it is none. As :meth:`ask`."""
        asked = self.ask(what, patience=patience, interruptible=interruptible, **arguments)
        answer = (await asked).result
        return answer if isinstance(answer, dict) else {}

    async def ask(
        self,
        what: str,
        *,
        buffers: Sequence[bytes] = (),
        patience: float = SHORT,
        interruptible: bool = False,
        **arguments: Any,
    ) -> Answer:
        """Ask the kernel for something that ``gpu_share_kernel.asked`` knows.

        Parameters
        ----------
        interruptible: the kernel answers an interrupt, having done nothing. One that nobody waits
            for any more would keep the next cell from running.

        Raises
        ------
        GpuShareError: the kernel could not, has ended, or did not answer in time.
        """
        module = "__import__('gpu_share_kernel.asked', fromlist=['answer'])"
        code = f"{module}.answer({what!r}, **{arguments!r})"
        asked = asyncio.wrap_future(self._relay.ask(code, buffers))
        answered = asyncio.shield(asked)
        for future in (asked, answered):  # where the kernel ends first, nobody fetches either
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            ended = await self._engine.ended_before(self._kernel_id, answered, patience)
        except asyncio.TimeoutError as error:
            if interruptible:
                await self._interrupt(asked)
            raise GpuShareError(f"the kernel did not answer within {patience:g} s") from error
        except asyncio.CancelledError:
            if interruptible:
                await self._interrupt(asked)
            raise
        finally:
            asked.cancel()
        if ended is not None:
            raise GpuShareError("the kernel has ended")
        return asked.result()

    async def _interrupt(self, asked: asyncio.Future[Answer]) -> None:
        """Have the kernel leave a question. One interrupt may come before it has begun.

        What users' code has started in the background is not to end by it, unless the kernel is
        reached in no other way: its command may start it as a child.
        """
        for left in reversed(range(_INTERRUPTS)):
            await self._engine.signal(self._kernel_id, signal.SIGINT, alone=left > 0)
            done, _ = await asyncio.wait({asked}, timeout=_INTERRUPT_INTERVAL)
            if done:
                return


def rows(values: object) -> list[dict[str, Any]]:
    """The dicts of a list, of whatever a kernel says."""
    values = values if isinstance(values, list) else []
    return [row for row in values if isinstance(row, dict)]


def texts(values: object) -> tuple[str, ...]:
    """The first lines of a list, of whatever a kernel says."""
    values = values if isinstance(values, list) else []
    told = tuple(text(value) for value in values[:_MOST])
    return (*told, say("more", number=len(values) - _MOST)) if len(values) > _MOST else told


def amount(value: object) -> int:
    """A number, of whatever a kernel says."""
    return value if isinstance(value, int) else 0


def text(value: object, longest: int = _LONGEST) -> str:
    """One line, of whatever a kernel says."""
    line = one_line(value) if isinstance(value, str) else ""
    return line if len(line) <= longest else line[: longest - 1] + "…"
