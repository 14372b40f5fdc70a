"""Kernelspecs for sizes: a choice that every client offers."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import (
    NATIVE_KERNEL_NAME,
    KernelSpec,
    KernelSpecManager,
    NoSuchKernel,
)
from traitlets import TraitError

from .._text import one_line
from ..errors import EngineError, NotPossible
from ..size import Size

_PROVISIONER = "gpu-share-provisioner"
#: Marks in a kernelspec's metadata what this command wrote.
_MARK = "jupyter_gpu_share"


def install(
    sizes: Sequence[Size], *, kernel: str, user: bool = False, prefix: str | None = None
) -> list[str]:
    """Write a kernelspec for each size, made from another one; their names. Can be repeated.

    Raises
    ------
    NotPossible: there is no kernelspec ``kernel``, or its file is damaged.
    EngineError: the files cannot be written.
    """
    manager = KernelSpecManager()
    origin = find(kernel, manager)
    return [_write(manager, origin, kernel, size, user=user, prefix=prefix) for size in sizes]


def find(kernel: str, manager: KernelSpecManager | None = None) -> KernelSpec:
    """The kernelspec of that name.

    Raises
    ------
    NotPossible: there is none, or it cannot be used; says what to do.
    """
    manager = manager or KernelSpecManager()
    try:
        return manager.get_kernel_spec(kernel)
    except NoSuchKernel as error:
        known = sorted(manager.find_kernel_specs())
        if kernel in known:
            raise NotPossible(
                f"The kernelspec {kernel!r} needs a kernel provisioner that is not installed. "
                "`jupyter kernelspec provisioners` shows those that are."
            ) from error
        if kernel == NATIVE_KERNEL_NAME:
            what = "Install it: pip install ipykernel"
        elif known:
            what = f"There are: {', '.join(known)}."
        else:
            what = "There is none at all. Install that of Python: pip install ipykernel"
        raise NotPossible(f"There is no kernelspec {kernel!r}. {what}") from error
    except (OSError, ValueError, TypeError, TraitError) as error:
        raise NotPossible(
            f"The kernelspec {kernel!r} cannot be read: {one_line(str(error))}. "
            f"Make it anew, or remove it: jupyter kernelspec remove {kernel}"
        ) from error


def installed() -> list[str]:
    """Names of the kernelspecs that this command wrote."""
    found = []
    for name, folder in sorted(KernelSpecManager().find_kernel_specs().items()):
        try:
            metadata = json.loads((Path(folder) / "kernel.json").read_text())["metadata"]
        except (OSError, ValueError, KeyError):
            continue
        if _MARK in metadata:
            found.append(name)
    return found


def remove() -> list[str]:
    """Remove the kernelspecs that this command wrote, wherever they are; their names."""
    manager = KernelSpecManager()
    names = installed()
    for name in names:
        try:
            manager.remove_kernel_spec(name)
        except OSError as error:
            raise EngineError(
                f"The kernelspec {name} cannot be removed: {error.strerror}."
            ) from error
    return names


def _write(
    manager: KernelSpecManager,
    origin: Any,
    kernel: str,
    size: Size,
    *,
    user: bool,
    prefix: str | None,
) -> str:
    name = f"{kernel}-gpu-{re.sub(r'[^a-z0-9.]+', '-', str(size).lower())}"
    spec = origin.to_dict()
    what = "no GPU" if size.is_none else f"GPU {size}"
    spec["display_name"] = f"{origin.display_name} · {what}"
    spec["metadata"] = {
        **spec.get("metadata", {}),
        "kernel_provisioner": {
            "provisioner_name": _PROVISIONER,
            "config": {"size": str(size)},
        },
        _MARK: {"size": str(size), "from": kernel},
    }
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / name
        if Path(origin.resource_dir).is_dir():
            shutil.copytree(origin.resource_dir, source)
        source.mkdir(exist_ok=True)
        (source / "kernel.json").write_text(json.dumps(spec, indent=1, ensure_ascii=False))
        try:
            manager.install_kernel_spec(str(source), name, user=user, prefix=prefix)
        except OSError as error:
            raise EngineError(
                f"The kernelspec {name} cannot be written: {error.strerror}. "
                "Use --user, --sys-prefix or --prefix."
            ) from error
    return name
