"""Which of the server's environment a kernel in a pod gets: what an allow list names. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["ALLOWED", "kernel_environment"]

#: What says something about the user's work, and nothing about the server.
ALLOWED = ("JPY_SESSION_NAME", "LANG", "LANGUAGE", "LC_*", "TZ", "MPLBACKEND", "NO_COLOR")

#: Set by us or by the image, true on the server's machine only, or the server's own credentials:
#: never let through by a pattern such as ``*``.
_RESERVED = re.compile(
    r"JUPYTER.*|JPY_(?!SESSION_NAME$).*|CONFIGPROXY_.*|KUBE.*|CUDA_.*|NVIDIA_.*"
    r"|PATH|HOME|PWD|OLDPWD|TMPDIR|LD_.*|PYTHON.*|VIRTUAL_ENV.*|CONDA_.*"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def kernel_environment(
    server: Mapping[str, str], declared: Iterable[str], allowed: Iterable[str]
) -> dict[str, str]:
    """The environment for a kernel.

    Parameters
    ----------
    server: the environment that a local kernel would get.
    declared: names that the kernelspec sets itself; they all go with it.
    allowed: names, or patterns with ``*``, of what may come from the server.
    """
    named = set(declared)
    patterns = [re.compile(".*".join(map(re.escape, text.split("*")))) for text in allowed]
    return {
        name: value
        for name, value in server.items()
        if _NAME.fullmatch(name)
        and "\0" not in value
        and (
            name in named
            or (
                not _RESERVED.fullmatch(name)
                and any(pattern.fullmatch(name) for pattern in patterns)
            )
        )
    }
