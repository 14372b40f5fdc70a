"""Other projects' own suites, with our provisioner as the default one of jupyter_client."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.suite]

_HERE = Path(__file__).parent
#: Seconds after which a suite hangs.
_LIMIT = 1500


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


def deselected(project: str) -> list[str]:
    """The tests that are left out; the file says why."""
    lines = (_HERE / f"deselected-{project}.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def environment(folder: Path) -> dict[str, str]:
    """Folders of its own, eight simulated GPUs, and our provisioner."""
    return {
        **os.environ,
        "HOME": str(folder),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(_HERE),
        **{f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")},
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_DEFAULT_PROVISIONER_NAME": "gpu-share-provisioner",
        "JUPYTER_GPU_SHARE_SIMULATE": "8xA100-80GB",
        "JUPYTER_GPU_SHARE_SIZE": "1/8",
    }


def run(folder: Path, where: Path, *arguments: str) -> tuple[int, int, str]:
    """Run pytest there; passed tests, our launches, and the end of the output."""
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "count_launches"]
    done = subprocess.run(
        [*command, "-o", "log_cli=false", *arguments],
        cwd=where,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LIMIT,
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


@pytest.mark.timeout(_LIMIT + 60)
def test_jupyter_client(tmp_path: Path) -> None:
    left_out = [f"--deselect={name}" for name in deselected("jupyter_client")]
    where = sources("jupyter_client")
    passed, launches, end = run(tmp_path, where, "-p", "no:asyncio", *left_out, "tests")
    assert f"{len(left_out)} deselected" in end, "a name in the list of deselected tests is stale"
    assert passed > 200
    assert launches > 50


@pytest.mark.timeout(_LIMIT + 60)
def test_nbclient(tmp_path: Path) -> None:
    left_out = [f"--deselect={name}" for name in deselected("nbclient")]
    scope = "asyncio_default_fixture_loop_scope=function"
    passed, launches, _ = run(tmp_path, sources("nbclient"), "-o", scope, *left_out, "tests")
    assert passed > 80
    assert launches > 50


def test_jupyter_kernel_test(tmp_path: Path) -> None:
    shutil.copy(_HERE / "ipykernel_cases.py", tmp_path / "test_ipykernel.py")
    _, launches, _ = run(tmp_path, tmp_path, "-p", "no:asyncio", "test_ipykernel.py")
    assert launches >= 1
