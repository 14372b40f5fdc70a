"""The environment of a kernel in a pod: what an allow list names, and its share. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ...allocations import Isolation, Share
from .._caps import framework_caps

__all__ = ["ALLOWED", "kernel_environment", "share_environment"]

#: What says something about the user's work, and nothing about the server.
ALLOWED = ("JPY_SESSION_NAME", "LANG", "LANGUAGE", "LC_*", "TZ", "MPLBACKEND", "NO_COLOR")

#: Set by us or by the image, true on the server's machine only, or the server's own credentials:
#: never let through by a pattern such as ``*``.
_RESERVED = re.compile(
    r"JUPYTER.*|JPY_(?!SESSION_NAME$).*|CONFIGPROXY_.*|KUBE.*|CUDA_.*|NVIDIA_.*"
    r"|PATH|HOME|PWD|OLDPWD|TMPDIR|LD_.*|PYTHON.*|VIRTUAL_ENV.*|CONDA_.*"
)
_SIMULATED_DIR = "/tmp/gpu-share-simulated"  # noqa: S108 - within the pod
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def kernel_environment(
    server: Mapping[str, str], declared: Iterable[str], allowed: Iterable[str]
) -> dict[str, str]:
    """The environment for a kernel.

    Parameters
    ----------
    server: the environment that a local kernel would get.
    declared: names that go with it, whatever ``allowed`` says.
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


def share_environment(share: Share, env: Mapping[str, str]) -> dict[str, str]:
    """What tells a kernel of its share, and keeps the frameworks to it.

    Parameters
    ----------
    env: all else that the kernel gets; a cap in there that is lower stays.
    """
    if not share.devices:
        return {"CUDA_VISIBLE_DEVICES": "", "JUPYTER_GPU_SHARE_MEMORY_BYTES": "0"}
    told = {
        "JUPYTER_GPU_SHARE_UUID": ",".join(device.uuid for device in share.devices),
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(share.memory_bytes),
        "JUPYTER_GPU_SHARE_FRACTION": str(share.fraction),
        "JUPYTER_GPU_SHARE_ISOLATION": share.isolation.value,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    if share.simulated:
        whole = int(share.memory_bytes / share.fraction) if share.fraction else share.memory_bytes
        told["JUPYTER_GPU_SHARE_SIMULATED_DIR"] = _SIMULATED_DIR
        told["JUPYTER_GPU_SHARE_SIMULATED_BYTES"] = ",".join([str(whole)] * len(share.devices))
    elif share.isolation is Isolation.FRAMEWORK:
        told |= framework_caps(share.memory_bytes, share.fraction, env)
    return told
