"""The user's running Jupyter servers, asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from ..errors import EngineError, GpuShareError, NotPossible

Server = Mapping[str, Any]

#: Seconds that a server has to answer a question; a change that restarts a kernel takes longer.
_ASK_TIMEOUT, _CHANGE_TIMEOUT = 2.0, 120.0


def running_servers() -> Iterator[Server]:
    """What jupyter_server wrote about the servers that run."""
    from jupyter_server.serverapp import list_running_servers

    yield from list_running_servers()


def ask(server: Server, method: str, path: str, body: Any = None) -> Any:
    """Send a request to a server; the decoded body of its answer.

    Raises
    ------
    NotPossible: the server refuses, with its own words.
    EngineError: the server does not answer.
    """
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{server['url']}{path}", data=data, method=method)  # noqa: S310
    request.add_header("Content-Type", "application/json")
    if server.get("token"):
        request.add_header("Authorization", f"token {server['token']}")
    # The servers are this machine's: a proxy has no business between.
    opener = build_opener(ProxyHandler({}))
    timeout = _ASK_TIMEOUT if method == "GET" else _CHANGE_TIMEOUT
    try:
        with opener.open(request, timeout=timeout) as answer:
            return json.load(answer)
    except HTTPError as error:
        raise NotPossible(_message(error)) from error
    except (URLError, OSError, ValueError) as error:
        raise EngineError(
            f"The Jupyter server at port {server.get('port')} does not answer."
        ) from (error)


def find_kernel(name: str) -> tuple[Server, dict[str, Any]]:
    """The server that runs a kernel, and the kernel's allocation.

    Parameters
    ----------
    name: the kernel's id, its first letters, or the path or name of its notebook.

    Raises
    ------
    NotPossible: no server runs it, or several kernels have that name.
    """
    found: list[tuple[Server, dict[str, Any]]] = []
    for server in running_servers():
        try:
            rows = ask(server, "GET", "gpu-share/allocations")
        except GpuShareError:
            continue
        found += [(server, row) for row in rows if _is_called(row, name)]
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


def _message(error: HTTPError) -> str:
    try:
        return str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError):
        return f"The Jupyter server refuses ({error.code})."
