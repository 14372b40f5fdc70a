"""The user's running Jupyter servers, asked over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from ..errors import EngineError, GpuShareError, NotPossible

__all__ = [
    "GoesOn",
    "Server",
    "aside",
    "ask",
    "change",
    "find_kernel",
    "name_of",
    "running_servers",
]

Server = Mapping[str, Any]
T = TypeVar("T")

#: Seconds that a server has to answer a question, to look at what a kernel would keep, and to make
#: a change: longer than saving the variables of a kernel may take.
_ASK_TIMEOUT, _LOOK_TIMEOUT, _CHANGE_TIMEOUT = 5.0, 120.0, 660.0


class GoesOn(GpuShareError):  # noqa: N818
    """A change was sent, and whether it was made is not known yet."""


def running_servers() -> Iterator[Server]:
    """What jupyter_server wrote about the servers that run.

    As its own ``list_running_servers``, whose module takes a second to be imported.
    """
    from jupyter_core.paths import jupyter_runtime_dir
    from jupyter_server.utils import check_pid

    for file in sorted(Path(jupyter_runtime_dir()).glob("jpserver-*.json")):
        try:
            info = json.loads(file.read_bytes())
            runs = check_pid(info["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it is being written, has just gone, or is somebody else's
        if runs:
            yield info


def name_of(server: Server) -> str:
    """What a server is called in messages."""
    if server.get("sock"):
        return f"The Jupyter server at the socket {server['sock']}"
    return f"The Jupyter server at port {server.get('port')}"


def ask(
    server: Server, method: str, path: str, body: Any = None, *, timeout: float | None = None
) -> Any:
    """Send a request that changes nothing; the decoded body of its answer.

    Parameters
    ----------
    timeout: seconds that the server has; those of a question where none are given.

    Raises
    ------
    NotPossible: the server refuses, with its own words, or does not let the command in.
    EngineError: the server cannot be reached, or does not answer in time.
    """
    seconds = timeout or (_ASK_TIMEOUT if method == "GET" else _LOOK_TIMEOUT)
    try:
        return _send(server, method, path, body, seconds)
    except TimeoutError as error:
        raise EngineError(f"{name_of(server)} did not answer within {seconds:g} s.") from error
    except (OSError, ValueError, HTTPException) as error:
        raise EngineError(f"{name_of(server)} broke the connection: {_words(error)}.") from error


def change(
    server: Server, method: str, path: str, body: Any, *, timeout: float = _CHANGE_TIMEOUT
) -> Any:
    """Send a request for a change; the decoded body of its answer.

    Raises
    ------
    NotPossible: the server refuses, with its own words, or does not let the command in.
    EngineError: the server cannot be reached: nothing was changed.
    GoesOn: the change was sent and no answer came, or none that can be read.
    """
    try:
        return _send(server, method, path, body, timeout)
    except TimeoutError as error:
        raise GoesOn(
            f"The change takes longer than {timeout:g} s and goes on in the server; "
            "`jupyter gpu-share list` shows how far it is."
        ) from error
    except (OSError, ValueError, HTTPException) as error:
        raise GoesOn(
            f"{name_of(server)} broke the connection ({_words(error)}): the change may have been "
            "made or not; `jupyter gpu-share list` shows it."
        ) from error


def _send(server: Server, method: str, path: str, body: Any, timeout: float) -> Any:
    """The decoded body of an answer.

    Raises
    ------
    NotPossible, EngineError: nothing was done.
    OSError, ValueError, HTTPException: the request was sent, and what became of it is not known.
    """
    if server.get("sock"):
        raise EngineError(f"{name_of(server)} cannot be asked: it has no port.")
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{server['url']}{path}", data=data, method=method)  # noqa: S310
    request.add_header("Content-Type", "application/json")
    token, _ = _token(server)
    if token:
        # Not kept where a server sends us elsewhere: it is for this one alone.
        request.add_unredirected_header("Authorization", f"token {token}")
    # The servers are this machine's: a proxy has no business between.
    opener = build_opener(ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(request, timeout=timeout) as answer:
            return json.load(answer)
    except HTTPError as error:
        with error:  # it has the connection
            raise _refusal(server, error) from error
    except URLError as error:
        # This one is raised for what fails before the request has been sent.
        reason = error.reason
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise EngineError(
                f"The certificate of the Jupyter server at port {server.get('port')} is not "
                f"trusted: {reason.verify_message}. Name it in SSL_CERT_FILE."
            ) from error
        if isinstance(reason, TimeoutError):
            raise EngineError(f"{name_of(server)} did not answer within {timeout:g} s.") from error
        words = _words(reason) if isinstance(reason, OSError) else str(reason)
        raise EngineError(f"{name_of(server)} cannot be reached: {words}.") from error


async def aside(work: Callable[..., T], *arguments: Any) -> T:
    """Wait for one of these functions in a thread that the command's end does not wait for.

    An interrupt ends the command at once, whatever a server takes its time for.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(put: Callable[[Any], None], outcome: object) -> None:
        if not done.done():
            put(outcome)

    def run() -> None:
        try:
            news = partial(settle, done.set_result, work(*arguments))
        except BaseException as error:
            news = partial(settle, done.set_exception, error)
        with suppress(RuntimeError):  # the command has ended
            loop.call_soon_threadsafe(news)

    threading.Thread(target=run, name="gpu-share-ask", daemon=True).start()
    return await done


class _NoRedirect(HTTPRedirectHandler):
    """A Jupyter server answers requests of programs itself, or sends browsers to its login."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _token(server: Server) -> tuple[str, str]:
    """What proves to a server who asks, and where it is from; both empty where there is nothing."""
    if server.get("token"):
        return str(server["token"]), "Its token was sent"
    # A Hub's server has no token of its own, but knows that which its Hub gave it, as all that it
    # starts does. No other server may see it.
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "").strip("/")
    token = os.environ.get("JUPYTERHUB_API_TOKEN", "")
    if token and prefix and prefix == str(server.get("base_url", "")).strip("/"):
        return token, "JUPYTERHUB_API_TOKEN was sent"
    return "", ""


def _refusal(server: Server, error: HTTPError) -> GpuShareError:
    """A server's answer that is none of success, in words."""
    code = error.code
    if code in (401, 403) or 300 <= code < 400:
        _, sent = _token(server)
        if sent:
            why = f"{sent}; its authorizer refuses gpu_share, or the token is not valid any more"
        else:
            # One with a password looks the same from here, and so does a Hub's.
            why = (
                "It has told no token: start it with JUPYTER_TOKEN set, beside its password if it "
                "has one; behind a Hub, use a terminal of that server"
            )
        return NotPossible(f"{name_of(server)} did not let this command in ({code}). {why}.")
    with suppress(OSError, HTTPException, ValueError, KeyError, TypeError):
        return NotPossible(str(json.load(error)["message"]))
    if code == 404:
        return NotPossible(f"{name_of(server)} lacks the extension jupyter_gpu_share (404).")
    return NotPossible(f"{name_of(server)} answers with an error ({code}); its log says more.")


def _words(error: Exception) -> str:
    if isinstance(error, ValueError):
        return "its answer is not JSON"
    told = error.strerror if isinstance(error, OSError) else None
    return told or str(error) or type(error).__name__


def find_kernel(name: str) -> tuple[Server, dict[str, Any]]:
    """The server that runs a kernel, and the kernel's allocation.

    Parameters
    ----------
    name: the kernel's id, its first letters, or the path or name of its notebook.

    Raises
    ------
    NotPossible: no server runs it, as far as they could be asked; or several kernels have that
        name.
    """
    found: list[tuple[Server, dict[str, Any]]] = []
    silent: list[str] = []
    for server in running_servers():
        try:
            rows = ask(server, "GET", "gpu-share/allocations")
        except GpuShareError as error:
            silent.append(str(error))
            continue
        found += [(server, row) for row in rows if _is_called(row, name)]
    if not found and silent:
        raise NotPossible(
            f"Whether a kernel {name!r} runs is not known. {' '.join(silent)}",
        )
    if not found:
        raise NotPossible(
            f"No Jupyter server of yours runs a kernel {name!r} on a share of a GPU; "
            "`jupyter gpu-share list` shows all."
        )
    if len(found) > 1:
        ids = ", ".join(row["kernel_id"][:8] for _, row in found)
        raise NotPossible(f"{name!r} fits several kernels; name one of them: {ids}")
    return found[0]


def _is_called(row: Mapping[str, Any], name: str) -> bool:
    path = row["path"] or ""
    return bool(name) and (
        row["kernel_id"].startswith(name.lower()) or path == name or path.endswith(f"/{name}")
    )
