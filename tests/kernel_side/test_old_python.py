"""The kernel-side files run in images with a Python from 3.8, and need pyzmq at the most."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

#: All but the face of the folder, which is the server's.
FILES = sorted(path for path in PATH.rglob("*.py") if path.parent != PATH or path.name[0] != "_")
OLDEST = (3, 8)
#: What came after 3.8, as far as anybody is likely to write it here.
NEWER_MODULES = {"graphlib", "tomllib", "zoneinfo"}
NEWER_NAMES = {
    "aclosing",
    "bit_count",
    "cache",
    "call_once",
    "file_digest",
    "is_relative_to",
    "orig_argv",
    "pairwise",
    "pidfd_open",
    "process_group",
    "randbytes",
    "removeprefix",
    "removesuffix",
    "stdlib_module_names",
    "to_thread",
    "TaskGroup",
    "UTC",
    "waitstatus_to_exitcode",
}
#: What is imported beside the standard library: our own files, and what makes a kernel.
OTHERS = {"IPython", "gpu_share_kernel", "ipykernel", "traitlets", "zmq"}
GENERIC = {"dict", "frozenset", "list", "set", "tuple", "type"}


def names(file: Path) -> str:
    return file.relative_to(PATH).as_posix()


def test_there_are_files() -> None:
    assert {"sitecustomize.py", "gpu_share_kernel/agent.py"} <= set(map(names, FILES))


@pytest.mark.parametrize("file", FILES, ids=names)
def test_the_grammar_is_that_of_an_old_python(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=OLDEST)
    for node in ast.walk(tree):
        where = f"{file.name}:{getattr(node, 'lineno', 0)}"
        # These are no matter of grammar, but fail when they run.
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in GENERIC, where
        if isinstance(node, ast.Attribute):
            assert node.attr not in NEWER_NAMES, where
        if isinstance(node, ast.ImportFrom):
            assert not {alias.name for alias in node.names} & NEWER_NAMES, where
        if isinstance(node, ast.FunctionDef | ast.arg | ast.AnnAssign):
            note = node.returns if isinstance(node, ast.FunctionDef) else node.annotation
            assert note is None, f"{where}: types are comments here"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "zip" or not node.keywords, where


@pytest.mark.parametrize("file", FILES, ids=names)
def test_nothing_is_needed_but_python_and_pyzmq(file: Path) -> None:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the files lie in one folder of a pod, and in another one here"
            found.add((node.module or "").partition(".")[0])
    assert found <= (sys.stdlib_module_names - NEWER_MODULES) | OTHERS


def old_pythons() -> list[str]:
    """Interpreters of this machine that are as old as allowed, whatever packages they have."""
    versions = ("3.8", "3.9")
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    candidates = [shutil.which(f"python{version}") for version in versions]
    candidates += [str(path) for v in versions for path in pyenv.glob(f"{v}.*/bin/python3")]
    found = {}
    for candidate in filter(None, candidates):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run(
            [candidate, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if done.returncode == 0:
            found.setdefault(done.stdout.strip(), candidate)
    return [found[version] for version in versions if version in found]


@pytest.mark.slow
def test_they_run_on_an_old_python(tmp_path: Path) -> None:
    pythons = old_pythons()
    if not pythons:
        pytest.skip("there is no Python 3.8 or 3.9 on this machine")
    code = (
        "import os, gpu_share_kernel.agent as agent\n"
        "from gpu_share_kernel import asked, background, caps, cuda, cuda_signs, farewell\n"
        "from gpu_share_kernel import attribution, interrupts, readings, simulated, snapshot\n"
        "from gpu_share_kernel import own_client, parking, processes\n"
        "from gpu_share_kernel import subshells, vacate, zygote\n"
        "from gpu_share_kernel.snapshot import modules\n"
        "assert modules.Reach().why('json.decoder') == ''\n"
        "assert not modules.Reach().told()['files']\n"
        "assert zygote.survives_fork(dict(os.environ))\n"
        "assert zygote.module_of(['python', '-m', 'ipykernel_launcher', 'x']) == ['x']\n"
        "assert os.getpid() in readings.tree(os.getppid())\n"
        "assert readings.resident_bytes({os.getpid()}) > 0\n"
        "assert readings.Gpu('libno-such-library.so').read({1}) == (None, None)\n"
        "with simulated.allocate('1GiB'):\n"
        "    assert readings.simulated_use(os.environ['JUPYTER_GPU_SHARE_SIMULATED_DIR'],\n"
        "                                  {os.getpid()}, 0) == (2**30, 0.0)\n"
        "importing = zygote.Zygote.spawn()\n"
        "importing.sock.setblocking(True)\n"
        "assert importing.news()[0]['what'] == 'cold'\n"
        "importing.sock.close()\n"
        "zygote.prepare(dict(os.environ, A='1'), '/')\n"
        "print(os.environ['A'], os.getcwd())"
    )
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PATH),
        "PYTHONPYCACHEPREFIX": str(tmp_path / "cache"),
        "JUPYTER_GPU_SHARE_UUID": "SIM-0",
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(2**31),
        "JUPYTER_GPU_SHARE_SIMULATED_BYTES": str(2**32),
        "JUPYTER_GPU_SHARE_SIMULATED_DIR": str(tmp_path),
    }
    for python in pythons:
        done = subprocess.run(
            [python, "-W", "error", "-c", code],
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("1 /\n", ""), python


def any_pythons() -> list[str]:
    """Interpreters of this machine that are older than what these files support."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = [str(path) for v in ("2.7", "3.4") for path in pyenv.glob(f"{v}.*/bin/python{v[0]}")]
    found += [str(path) for v in ("3.6", "3.7") for path in pyenv.glob(f"{v}.*/bin/python3")]
    return found


@pytest.mark.parametrize("hidden", [True, False])
def test_a_python_that_is_too_old_is_left_alone(tmp_path: Path, hidden: bool) -> None:
    """A cell may start any Python, which finds these files."""
    pythons = any_pythons()
    if not pythons:
        pytest.skip("there is no Python before 3.8 on this machine")
    if hidden:
        (tmp_path / "sitecustomize.py").write_text("print('hidden')\n")
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(PATH), str(tmp_path)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JUPYTER_GPU_SHARE_UUID": "SIM-0",
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(2**31),
    }
    for python in pythons:
        code = "import sys; sys.stdout.write('%s' % ('gpu_share_kernel.caps' in sys.modules))"
        done = subprocess.run(
            [python, "-c", code],
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        expected = "hidden\nFalse" if hidden else "False"
        assert (done.stdout, done.stderr, done.returncode) == (expected, "", 0), python
