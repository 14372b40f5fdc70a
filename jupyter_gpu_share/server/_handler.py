"""What all REST routes share.

Handlers know the extension by three entries of the web application's settings alone:

``gpu_share_runtime``
    Called without arguments on the server's loop, it returns the runtime; the first call makes it.
``gpu_share_show_queue``
    True where users may see how many kernels of others wait.
``gpu_share_elsewhere``
    Why no kernel of this server can have a share of a GPU here, in one line; None where they can.
``gpu_share_on_share``
    Called with a kernelspec, it says whether its kernels start on a share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import ensure_async
from tornado import web

from .._threads import in_thread
from ..allocations import Allocation
from ..errors import GpuShareError, NotPossible, SizeError
from ..sentences import say, sentences_of, words_of
from ._paths import within

if TYPE_CHECKING:
    from ..runtime import Runtime

__all__ = [
    "ELSEWHERE",
    "ON_SHARE",
    "RUNTIME",
    "SHOW_QUEUE",
    "GpuShareHandler",
    "Refused",
    "path_of",
    "told",
    "uuid_of",
]

#: Keys of the settings.
RUNTIME, SHOW_QUEUE = "gpu_share_runtime", "gpu_share_show_queue"
ELSEWHERE, ON_SHARE = "gpu_share_elsewhere", "gpu_share_on_share"

_RESOURCE = "gpu_share"
_MAX_BODY = 64 * 1024
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

#: What is told of an error that has no words of its own, by status.
_MEANINGS = {
    401: say("not-logged-in"),
    403: say("no-right"),
    404: say("nothing-here"),
    405: "This method is not allowed here.",
}
_BAD_REQUEST = "The request cannot be understood."
_FAILED = say("server-failed")

Method = TypeVar("Method", bound=Callable[..., Awaitable[None]])


class Refused(web.HTTPError):
    """An answer of an error status.

    Attributes
    ----------
    words: one line for the user, with its sentences.
    """

    def __init__(self, status: int, words: str, **more: Any) -> None:
        # tornado formats what it logs.
        super().__init__(status, log_message="%s", **more)
        self.args = (words,)
        self.words = words


def told(method: Method) -> Method:
    """Turn this package's errors into answers with their one line."""

    @wraps(method)
    async def wrapper(self: GpuShareHandler, *args: Any, **kwargs: Any) -> None:
        try:
            await method(self, *args, **kwargs)
        except SizeError as error:
            raise Refused(400, words_of(error), reason="Bad size") from error
        except NotPossible as error:
            raise Refused(409, words_of(error), reason="Not possible") from error
        except GpuShareError as error:
            raise Refused(503, words_of(error), reason="No GPU share") from error

    return cast("Method", wrapper)


class GpuShareHandler(APIHandler):
    """What all routes share: the right, the runtime, and strict reading of bodies."""

    auth_resource = _RESOURCE
    #: Asking about shares is no use of the server: cullers do not count it.
    _track_activity = False

    @property
    def runtime(self) -> Runtime:
        runtime: Runtime = self.settings[RUNTIME]()
        return runtime

    @property
    def elsewhere(self) -> str | None:
        """Why no kernel of this server can have a share here; None where they can."""
        reason: str | None = self.settings[ELSEWHERE]
        return reason

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """An error as JSON with one line of message. Called by tornado."""
        error = kwargs.get("exc_info", (None, None))[1]
        self.set_header("Content-Type", "application/json")
        words = _message(status_code, error)
        self.finish(
            json.dumps(
                {
                    "message": " ".join(words.split()),
                    "message_sentences": sentences_of(words),
                    "reason": None,
                }
            )
        )

    def starts_on_share(self, spec: Any) -> bool:
        """Whether kernels of a kernelspec start on a share."""
        return bool(self.settings[ON_SHARE](spec))

    async def kernelspecs(self) -> dict[str, Any]:
        """Those whose kernels start on a share, by name, as ``api/kernelspecs`` tells them."""
        if self.elsewhere is not None:
            return {}
        found = await ensure_async(self.kernel_spec_manager.get_all_specs())
        specs = {name: each["spec"] for name, each in found.items()}
        return {name: spec for name, spec in specs.items() if self.starts_on_share(spec)}

    async def check_kernelspec(self, name: str) -> Any:
        """The kernelspec; refuses one whose kernels start without a share, or that is not there."""
        try:
            spec = await ensure_async(self.kernel_spec_manager.get_kernel_spec(name))
        except (NoSuchKernel, ValueError) as error:
            raise NotPossible(say("no-kernelspec", name=repr(name))) from error
        if not self.starts_on_share(spec):
            raise NotPossible(say("kernelspec-without-share", name=repr(name)))
        return spec

    async def remember(self, path: str | None, size: str | None) -> None:
        """Have later kernels of a notebook or console start with a size; None: with the default."""
        if path is not None:
            await in_thread(self.runtime.choices.set, self.root, path, size)

    @property
    def root(self) -> str:
        """The folder that the server shows."""
        manager: Any = self.kernel_manager
        return str(Path(manager.root_dir))

    def body(self, allowed: dict[str, type | tuple[type, ...]]) -> dict[str, Any]:
        """The JSON object of a request, with no field that is not ``allowed``."""
        if len(self.request.body) > _MAX_BODY:
            raise web.HTTPError(413, log_message=f"The request is larger than {_MAX_BODY} bytes.")
        try:
            found = json.loads(self.request.body) if self.request.body.strip() else {}
        except (ValueError, RecursionError) as error:
            raise web.HTTPError(400, log_message="The request is not valid JSON.") from error
        if not isinstance(found, dict):
            raise web.HTTPError(400, log_message="The request must be a JSON object.")
        for name, value in found.items():
            if name not in allowed:
                fields = ", ".join(allowed)
                raise web.HTTPError(
                    400, log_message=f"There is no field {name[:40]!r} here; there are: {fields}."
                )
            if not isinstance(value, allowed[name]):
                raise web.HTTPError(400, log_message=f"The field {name!r} has the wrong type.")
        return found

    def known(self, kernel_id: str) -> Allocation:
        """The allocation of one of this server's kernels, or 404."""
        row = self.runtime.table.get(uuid_of(kernel_id))
        if row is None:
            raise Refused(404, say("no-such-kernel"))
        return row

    def answer(self, content: Any, status: int = 200) -> None:
        """End with a JSON body."""
        self.set_status(status)
        self.finish(json.dumps(content))


def uuid_of(text: str) -> str:
    """A kernel's id as it was given: Jupyter tells ids apart by their letters' case."""
    if not _UUID.fullmatch(text):
        raise web.HTTPError(400, log_message="A kernel's id is a UUID.")
    return text


def path_of(text: str | None) -> str | None:
    """A path within the folder that the server shows."""
    if not text:
        return None
    path = within(text)
    if path is None:
        raise web.HTTPError(400, log_message="path names a file within the server's folder.")
    return path


def _message(status: int, error: BaseException | None) -> str:
    """One line for an error; for one that says nothing itself, what its status means here."""
    if isinstance(error, Refused):
        return error.words
    said = error.log_message if isinstance(error, web.HTTPError) else None
    if said and isinstance(error, web.HTTPError):
        # tornado formats the text for its log only, and doubles percent signs where it has none.
        with suppress(TypeError, ValueError):
            return " ".join((said % error.args if error.args else said % ()).split())
    return _MEANINGS.get(status) or (_BAD_REQUEST if status < 500 else _FAILED)
