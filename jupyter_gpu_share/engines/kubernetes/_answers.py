"""What the broker of a cluster answers, made of use to who waits for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ...allocations import Share
from ...broker.client import BrokerRefused
from ...errors import EngineError, KernelStartError, NoGpuError, SizeError
from ...sentences import paragraph, say
from ..base import Report, Starting, Waiting
from ._link import Owned
from ._objects import Keys
from ._ownership import TAKEN_OVER
from ._row import Row, share_of

__all__ = [
    "NO_SUCH",
    "Once",
    "change_of",
    "check",
    "keys_of",
    "progress_of",
    "text_of",
    "unless_gone",
]

#: The status of an answer about a kernel of which the broker does not know.
NO_SUCH = 404


def keys_of(told: Any) -> Keys:
    """The keys that the broker has read from a pod's Secret.

    Raises
    ------
    EngineError: it told something else.
    """
    try:
        public, secret = told["curve_publickey"], told["curve_secretkey"]
        return Keys(
            str(told["key"]).encode("ascii"),
            str(told["signature_scheme"]),
            None if public is None else str(public),
            None if secret is None else str(secret),
        )
    except (KeyError, TypeError, ValueError):
        # Without the cause: it may have a key in it.
        raise EngineError(
            "The kernel cannot be taken over: the broker does not tell its keys."
        ) from None


def text_of(key: bytes) -> str:
    """A key as the broker takes it.

    Raises
    ------
    EngineError: it cannot be sent.
    """
    if not key or not key.isascii():
        raise EngineError(
            "The kernel's key has characters that cannot be sent to the broker; leave Session.key "
            "out of the configuration."
        )
    return key.decode()


class Once:
    """Each thing is told once."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last: Waiting | Starting | None = None

    def __call__(self, news: Waiting | Starting) -> None:
        if news != self._last:
            self._last = news
            self._report(news)


@contextmanager
def unless_gone() -> Iterator[None]:
    """Nothing is left to do where the broker knows of no such kernel."""
    try:
        yield
    except BrokerRefused as error:
        if error.status != NO_SUCH:
            raise


def progress_of(row: Row) -> Waiting | Starting:
    """What is told to who waits for a kernel."""
    if row.share is None or row.state in ("waiting", "taking", "released"):
        return Waiting(row.queue, row.reason)
    return Starting(row.share, row.reason or row.note)


def check(row: Row) -> None:
    """Raise where there is no kernel to wait for any more."""
    if row.failed is not None:
        _fail(row.failed.kind, row.failed.detail)
    if row.ended is not None:
        raise KernelStartError(paragraph(say("did-not-start"), row.ended.reason))
    if row.lost:
        raise Owned(TAKEN_OVER)
    if row.state == "gone":
        raise KernelStartError(say("pod-deleted"))


def _fail(kind: str, detail: str) -> NoReturn:
    errors = {"no-gpu": NoGpuError, "start": KernelStartError, "size": SizeError}
    raise errors.get(kind, EngineError)(detail or say("did-not-start"))


def change_of(answer: Any) -> tuple[Share, bool] | None:
    """The share of another size, and whether the kernel may stay on its GPU meanwhile."""
    try:
        change = answer["change"]
        if change is None:
            return None
        share = share_of(change["share"])
        assert share is not None
        return share, change["beside"] is True
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise EngineError("The broker's answer about another size makes no sense.") from error
