"""Real servers of JupyterLab and Notebook 7, and what of the extension is told to them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers import Server, home_in, run_server, stop_server

#: The extension's name, as npm and ``jupyter labextension`` know it.
NAME = "jupyter-gpu-share"
BUILT = Path(__file__).parents[2] / "jupyter_gpu_share" / "labextension"
_EXPOSED = {"jupyterlab": "LabApp", "notebook": "JupyterNotebookApp"}


@contextmanager
def lab_server(
    folder: Path,
    *arguments: str,
    app: str = "jupyterlab",
    simulate: str = "1xA100-80GB",
    prefix: tuple[str, ...] = (),
    environment: Path | None = None,
) -> Iterator[Server]:
    """A server of JupyterLab (``app="notebook"``: of Notebook 7), which ends with its kernels.

    Its page lets tests reach the application as ``window.jupyterapp``. It asks nobody to look at
    news, which it would fetch from elsewhere. ``environment`` is as in ``run_server``.
    """
    if environment is not None:
        home_in(folder)
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab"
    _write(settings / "apputils-extension" / "notification.jupyterlab-settings", _NO_NEWS)
    exposed = f"--{_EXPOSED[app]}.expose_app_in_browser=True"
    server = run_server(
        folder,
        exposed,
        *arguments,
        simulate=simulate,
        app=app,
        prefix=prefix,
        environment=environment,
    )
    try:
        yield server
    finally:
        stop_server(server)


_NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def disable(server: Server, plugins: Mapping[str, bool]) -> None:
    """Write the ``disabledExtensions`` of the server, which the next page that is loaded reads."""
    path = server.folder.parent / "config" / "labconfig" / "page_config.json"
    _write(path, {"disabledExtensions": dict(plugins)})


def write_choice(server: Server, path: str, size: str) -> None:
    """Choose a size for a notebook, as the dialog does."""
    server.ok("gpu-share/choices", "PUT", {"path": path, "size": size})


def spoil_choice(server: Server, path: str) -> None:
    """Have a notebook choose what could be had then, and cannot any more: its start fails."""
    write_choice(server, path, "1/2")
    (file,) = (server.folder.parent / "data" / "gpu-share" / "sizes").iterdir()
    file.write_text(json.dumps({path: "mig-1g.10gb"}))


def end_kernels(server: Server) -> None:
    """End every session and kernel; the server answers when their shares are free."""
    for session in server.ok("api/sessions"):
        server.fetch(f"api/sessions/{session['id']}", "DELETE")
    for kernel in server.ok("api/kernels"):
        server.fetch(f"api/kernels/{kernel['id']}", "DELETE")


def write_notebook(server: Server, name: str, *cells: str, kernel: str = "python3") -> str:
    """Write a notebook with code cells into the server's folder; its path there."""
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell-{number}",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": source,
            }
            for number, source in enumerate(cells)
        ],
        "metadata": {
            "kernelspec": {"name": kernel, "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    _write(server.folder / name, notebook)
    return name


def write_kernelspec(
    server: Server,
    name: str,
    shown: str,
    *,
    size: str = "",
    provisioner: str = "gpu-share-provisioner",
) -> None:
    """Write a kernelspec of Python, which names a size if one is given."""
    stanza = {"provisioner_name": provisioner, "config": {"size": size} if size else {}}
    spec = {
        "argv": ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": shown,
        "language": "python",
        "metadata": {"kernel_provisioner": stanza},
    }
    _write(server.folder.parent / "data" / "kernels" / name / "kernel.json", spec)


def empty(server: Server) -> None:
    """Delete what tests have written into the server's folder, and chosen for it."""
    data = server.folder.parent / "data"
    for folder in (data / "gpu-share" / "sizes", data / "kernels"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in server.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def allocation_of(kernel_id: str, **changes: Any) -> dict[str, Any]:
    """An allocation as the server tells it, of a kernel that need not run."""
    return {
        "kernel_id": kernel_id,
        "kernel_name": "python3",
        "path": f"kernel-{kernel_id[-4:]}.ipynb",
        "user": None,
        "size": "1/4",
        "state": "active",
        "reason": "",
        "reason_sentences": [],
        "share": None,
        "used_bytes": None,
        "utilization": None,
        "idle_since": None,
        "keep_until": None,
        "next": None,
        "queue": None,
        "engine": "local",
        "backend": None,
        "style": None,
        "kept": {"how": "none", "lost": []},
        **changes,
    }
