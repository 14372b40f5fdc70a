"""What the HTTP routes of a broker have in common, whoever proves to them who calls."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import wraps
from http import HTTPStatus
from typing import Any, ClassVar, NoReturn, TypeVar, cast

from tornado import web

from .. import sentences
from .._text import one_line
from ..errors import GpuShareError, SizeError
from ..sentences import words_of
from ..size import Size

__all__ = ["MAX_BODY", "MAX_HEADERS", "JsonHandler", "Statuses", "told"]

_log = logging.getLogger(__name__)

#: Bytes of a request's body, and of its headers.
MAX_BODY = 64 * 1024
MAX_HEADERS = 16 * 1024
#: Requests of one user that are worked on at once; who sends more is told to come again.
_AT_ONCE = 32
_KERNEL_ID = re.compile(r"[\w.:-]{1,200}", re.ASCII)

Method = TypeVar("Method", bound=Callable[..., Awaitable[None]])
#: Statuses of answers by the errors that they tell of; the first that fits counts.
Statuses = Sequence[tuple[type[GpuShareError], int]]


def told(method: Method) -> Method:
    """Turn this package's errors into answers with their one line."""

    @wraps(method)
    async def wrapper(self: JsonHandler, *args: Any, **kwargs: Any) -> None:
        try:
            await method(self, *args, **kwargs)
        except GpuShareError as error:
            found = (status for kind, status in self.statuses if isinstance(error, kind))
            self.refuse(next(found, 503), words_of(error), error)

    return cast("Method", wrapper)


class JsonHandler(web.RequestHandler):
    """Strict reading of bodies, and errors as RFC 9457 has them.

    A subclass proves in ``prepare`` who calls, and counts the request there with `enter`.
    """

    statuses: ClassVar[Statuses] = ((SizeError, 400),)
    #: Whether it counts among the requests that are worked on.
    bounded = True
    _counted: tuple[Counter[Hashable], Hashable] | None = None

    def enter(self, under_way: Counter[Any], who: Hashable) -> None:
        """Count this request among those of ``who`` until it is answered, or refuse it."""
        if not self.bounded:
            return
        if under_way[who] >= _AT_ONCE:
            self.refuse(429, "You have too many requests under way; wait for their answers.")
        under_way[who] += 1
        self._counted = under_way, who

    def on_finish(self) -> None:
        """Called by tornado when it is answered, whether or not anybody waits for that any more."""
        self._done()

    def _done(self) -> None:
        if self._counted is not None:
            (under_way, who), self._counted = self._counted, None
            under_way[who] -= 1
            if under_way[who] <= 0:
                del under_way[who]

    def refuse(self, status: int, line: str, cause: Exception | None = None) -> NoReturn:
        """Answer with an error of one line, and its sentences where it is made of some."""
        raise web.HTTPError(status, "%s", line) from cause

    def log_exception(self, *args: Any) -> None:
        """Called by tornado: what users do wrong is not for the administrator's log."""
        if not isinstance(args[1], web.HTTPError):
            _log.error("A request failed", exc_info=args[1])

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Called by tornado: what has begun can only be ended."""
        if self._headers_written:
            if not self._finished:
                self.finish()
            return
        super().send_error(status_code, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by tornado."""
        error = kwargs.get("exc_info", (None, None))[1]
        try:
            title = HTTPStatus(status_code).phrase
        except ValueError:
            title = "Error"
        detail: str = "The broker met an error; its log says more."
        if isinstance(error, web.HTTPError):
            detail = error.args[0] if error.args else f"{title}."
        self.set_header("Content-Type", "application/problem+json")
        self.finish(
            json.dumps({"title": title, "status": status_code, **sentences.told("detail", detail)})
        )

    def answer(self, data: Any, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(data))

    def answer_fits(self, found: Sequence[str | None]) -> None:
        """Answer which sizes could be had: why not as text, or with sentences for who asks so."""
        if self.get_query_argument("sentences", "false") != "true":
            self.answer(found)
        else:
            self.answer([None if why is None else sentences.told("why", why) for why in found])

    def body(self, **known: Any) -> dict[str, Any]:
        """The request's object, with all of ``known``: kinds by name, a tuple of several.

        What is not among them is refused, so that nobody believes it was heard.
        """
        try:
            data = json.loads(self.request.body)
        except (ValueError, RecursionError) as error:
            self.refuse(400, "The request's body is no JSON.", error)
        if not isinstance(data, dict):
            self.refuse(400, "The request's body is no JSON object.")
        for name, value in data.items():
            if name not in known:
                self.refuse(400, f"The request has a field that is not known: {name[:40]!r}.")
            if not isinstance(value, known[name]) or (
                isinstance(value, bool) and known[name] is not bool
            ):
                self.refuse(400, f"The field {name} has a value of the wrong kind.")
        return data

    def size(self, text: Any) -> Size:
        """A size that a body names."""
        if not isinstance(text, str) or len(text) > 100:
            self.refuse(400, "The request names no size.")
        return Size.parse(text)

    def texts(self, given: Any, known: Mapping[str, int]) -> dict[str, str | None] | None:
        """What a user is shown of a kernel, cut to its length; None where it is not told.

        Parameters
        ----------
        known: the most characters of each, by name.
        """
        if given is None:
            return None
        found: dict[str, str | None] = {}
        for name, value in given.items():
            if name not in known or not isinstance(value, str | None):
                self.refuse(400, "The field info has what is not known.")
            found[name] = value if value is None else one_line(value)[: known[name]]
        return found

    def kernel(self, kernel_id: str) -> str:
        """A kernel's id from a path or a body."""
        if not _KERNEL_ID.fullmatch(kernel_id):
            self.refuse(400, "That is no id of a kernel.")
        return kernel_id
