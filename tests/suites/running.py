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
#: Failed tests that may be for want of time.
_FEW = 3


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
    """Run pytest there; passed tests, our launches, and the end of the output.

    These suites give a start a second or so, which a busy machine does not always keep to. So the
    few tests that failed are run once more; they have to pass then.
    """
    done = _pytest(env, where, *arguments)
    end = _end(done)
    failed = _number("failed", done) + _number("error", done)
    again = 0
    if done.returncode == 1 and 0 < failed <= _FEW:
        print(end)
        second = _pytest(env, where, "--last-failed", *arguments)
        assert second.returncode == 0, _end(second)
        again = _number("passed", second)
    else:
        assert done.returncode == 0, end
    launches = re.search(r"launches by GpuShareProvisioner: (\d+)", done.stdout)
    assert launches is not None, end
    print(_summary(done), f"({launches[0]})")
    return _number("passed", done) + again, int(launches[1]), end


def _pytest(
    env: Mapping[str, str], where: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "count_launches"]
    options = ["-o", "log_cli=false", "-o", f"cache_dir={env['HOME']}/pytest"]
    return subprocess.run(
        [*command, *options, *arguments],
        cwd=where,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def _summary(done: subprocess.CompletedProcess[str]) -> str:
    """The line that tells how many passed; a warning at the interpreter's end may come after it."""
    lines = [line for line in done.stdout.splitlines() if re.search(r" in \d+\.\d+s", line)]
    return lines[-1] if lines else ""


def _number(what: str, done: subprocess.CompletedProcess[str]) -> int:
    found = re.search(rf"(\d+) {what}", _summary(done))
    return int(found[1]) if found else 0


def _end(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join(done.stdout.splitlines()[-60:])
