"""What the adaptive rule has found out, kept for the next server on this machine."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
from contextlib import suppress
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

from ..errors import GpuShareError
from ..idle import Calibration
from ._private import new_file, open_file

__all__ = ["file_of", "read", "write"]

_log = logging.getLogger(__name__)
_MOST = 100_000


def file_of() -> Path:
    """Of this user and this machine: homes are often shared by machines that differ."""
    node = re.sub(r"[^\w.-]", "_", platform.node() or "localhost", flags=re.ASCII)
    return Path(jupyter_data_dir()) / "gpu-share" / f"waits-{node}.json"


def read(path: Path) -> Calibration:
    """What was found out before. Where it cannot be read, nothing was."""
    try:
        with open_file(path) as file:
            return Calibration.from_json(json.loads(file.read(_MOST)))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError, GpuShareError) as error:
        _log.warning("What the idle rule found out before cannot be read, and is left: %s", error)
    return Calibration()


def write(path: Path, calibration: Calibration) -> None:
    """Keep it, unless another server of this user has seen more by now."""
    if not calibration.seen or read(path).seen > calibration.seen:
        return
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(beside) as file:
            file.write(json.dumps(calibration.to_json()).encode())
        beside.replace(path)
    except OSError as error:
        _log.warning("What the idle rule has found out cannot be kept: %s", error)
        with suppress(OSError):
            beside.unlink()
