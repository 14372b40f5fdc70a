"""Runs other projects' own suites, with our provisioner as the default one of jupyter_client."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
#: Seconds after which a suite hangs.
LIMIT = 1500


def sources(project: str) -> Path:
    """The unpacked source distribution of the installed version, fetched once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "jupyter-gpu-share" / "sdists"
    name = f"{project}-{version(project)}"
    if not (folder / name / "tests").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        options = ["--no-binary", ":all:", "--dest", str(folder)]
        subprocess.run(
            [*command, *options, f"{project}=={version(project)}"], check=True, timeout=600
        )
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return folder / name


def deselected(name: str) -> list[str]:
    """The tests that are left out; the file ``deselected-<name>.txt`` says why."""
    lines = (HERE / f"deselected-{name}.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Folders of its own, and our provisioner."""
    return {
        **os.environ,
        "HOME": str(folder),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(HERE),
        **{f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")},
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_DEFAULT_PROVISIONER_NAME": "gpu-share-provisioner",
        **more,
    }


def run(env: Mapping[str, str], where: Path, *arguments: str) -> tuple[int, int, str]:
    """Run pytest there; passed tests, our launches, and the end of the output."""
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "count_launches"]
    done = subprocess.run(
        [*command, "-o", "log_cli=false", *arguments],
        cwd=where,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    end = "\n".join(done.stdout.splitlines()[-60:])
    assert done.returncode == 0, end
    passed = re.search(r"(\d+) passed", done.stdout)
    launches = re.search(r"launches by GpuShareProvisioner: (\d+)", done.stdout)
    assert passed is not None, end
    assert launches is not None, end
    print(done.stdout.splitlines()[-1], f"({launches[0]})")
    return int(passed[1]), int(launches[1]), end
