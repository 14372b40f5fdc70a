"""Errors of the Kubernetes API, told apart and told in words.

A text never holds what was sent: bodies carry keys, headers carry tokens.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ....errors import EngineError

__all__ = [
    "AlreadyExists",
    "Conflict",
    "Expired",
    "Forbidden",
    "Invalid",
    "KubernetesError",
    "NotFound",
    "QuotaExceeded",
    "ServerTrouble",
    "TooManyRequests",
    "Unauthorized",
    "Unreachable",
    "Unsettled",
    "Untrusted",
    "error_of",
]

_LONGEST = 500
#: How authorizers begin to say that a right is missing. Rules of admission may say "cannot", too.
_NO_RIGHT = re.compile(r'\bUser "[^"]*" cannot\b|\bcannot set blockOwnerDeletion\b')
#: Why admission refuses what it takes a moment later: a quota that others are counted in just now
#: (of OpenShift, of several namespaces), or a namespace so new that its controllers are not done.
_PASSING = re.compile(
    r"cannot be fulfilled on (cluster)?resourcequotas|status unknown for quota"
    r'|serviceaccount "default" not found'
)


class KubernetesError(EngineError):
    """The Kubernetes API did not do what was asked. ``detail`` has its own words.

    Attributes
    ----------
    unsure: what was asked may have been done all the same, by this attempt or an earlier one of the
        same call.
    """

    unsure = False

    def __init__(self, text: str, *, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(text)
        self.detail = detail
        self.retry_after = retry_after


class Unreachable(KubernetesError):
    """No answer: the network, TLS, or a time-out. What was asked may have been done."""

    unsure = True


class Untrusted(Unreachable):
    """The certificate of what answers is not accepted. Nothing was asked of it."""

    unsure = False


class Unauthorized(KubernetesError):
    """The credentials are not accepted."""


class Forbidden(KubernetesError):
    """The credentials do not allow this."""


class QuotaExceeded(Forbidden):
    """A ResourceQuota of the namespace is used up."""


class NotFound(KubernetesError):
    """There is no such object."""


class Unsettled(KubernetesError):
    """The namespace's quota, or the namespace itself, is being written just now; nothing was done.

    The same request may be accepted a moment later.
    """


class Conflict(KubernetesError):
    """The object has changed since it was read."""


class AlreadyExists(Conflict):
    """An object of that name exists."""


class Expired(KubernetesError):
    """The watch's position is too old; the objects have to be listed again."""


class Invalid(KubernetesError):
    """The API server does not accept the object."""


class TooManyRequests(KubernetesError):
    """The API server asks for fewer requests."""


class ServerTrouble(KubernetesError):
    """The API server has a problem of its own (5xx). What was asked may have been done."""

    unsure = True


def error_of(
    status: int, body: bytes | str, what: str, *, retry_after: float | None = None
) -> KubernetesError:
    """The error for an answer of the API server.

    ``what`` says what was attempted, such as ``create pods in notebooks``.
    """
    reason, message = _status(body)
    words = f" ({message})" if message else ""
    if status == 401:
        text = (
            "The Kubernetes API does not accept this server's credentials any more; renew the "
            f"token or kubeconfig of the Jupyter server ({what})."
        )
        return Unauthorized(text, detail=message)
    if status in (403, 409) and _PASSING.search(message):
        text = f"Kubernetes could not {what} now{words}. Try again in a minute."
        return Unsettled(text, detail=message)
    if status == 403 and "exceeded quota" in message:
        return QuotaExceeded(
            f"The namespace's quota is used up: {_quota(message)}. End a kernel, or ask the "
            "administrator for more.",
            detail=message,
        )
    if status == 403 and message and not _NO_RIGHT.search(message):
        # Not a right that is missing: admission said no.
        return Forbidden(
            f"The cluster's rules do not allow to {what}{words}. Tell the administrator.",
            detail=message,
        )
    if status == 403:
        return Forbidden(
            f"The Jupyter server may not {what} in Kubernetes{words}. The administrator can grant "
            "it: etc/kubernetes has the Role.",
            detail=message,
        )
    if status == 404:
        return NotFound(f"Kubernetes has no such object: {what}{words}.", detail=message)
    if status == 409:
        kind = AlreadyExists if reason == "AlreadyExists" else Conflict
        text = f"Kubernetes could not {what}: it exists or has changed{words}."
        return kind(text, detail=message)
    if status == 410:
        return Expired(f"The list has to be read again: {what}.", detail=message)
    if status in (400, 422):
        return Invalid(f"Kubernetes refused to {what}{words}.", detail=message)
    if status == 429:
        text = f"The Kubernetes API is overloaded and asked to wait ({what})."
        return TooManyRequests(text, detail=message, retry_after=retry_after)
    if status >= 500:
        text = f"The Kubernetes API has a problem of its own: {status} at {what}{words}."
        return ServerTrouble(text, detail=message, retry_after=retry_after)
    return KubernetesError(f"Kubernetes answered {status} to {what}{words}.", detail=message)


def _status(body: bytes | str) -> tuple[str, str]:
    """Reason and message of a ``Status`` object; whatever else came is cut to one line."""
    try:
        status: Any = json.loads(body)
        reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    except (ValueError, AttributeError):
        reason = ""
        message = body.decode(errors="replace") if isinstance(body, bytes) else body
    line = " ".join(message.split())
    return reason, line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _quota(message: str) -> str:
    """``exceeded quota: gpus, requested: …, used: …, limited: …`` without what stands before."""
    return message.partition("exceeded quota")[2].lstrip(": ") or message
