"""What a new user has: an environment with what ``pip install`` brings, and nothing else.

No package index is asked: what the package needs is taken from the environment of the tests, but
only what pip would have brought. What tests have besides is not there.
"""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
BUILT = Path("jupyter_gpu_share") / "labextension"
#: Longest wait for pip, in seconds.
PATIENCE = 600.0


def readme_lines() -> list[str]:
    """What the README's *Install* tells a new user to type, without the comments."""
    text = (ROOT / "README.md").read_text("utf-8")
    install = text[text.index("## Install") : text.index("## Where kernels run")]
    blocks = re.findall(r"```sh\n(.*?)```", install, re.DOTALL)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]


def readme_requirement() -> str:
    """What the README's first line installs, such as ``jupyter-gpu-share[lab]``."""
    first = readme_lines()[0]
    found = re.fullmatch(r"pip install '(jupyter-gpu-share\[[^']+\])'", first)
    assert found is not None, first
    return found[1]


def tracked() -> Iterator[str]:
    """The files that a clone has, and those that will be committed."""
    for what in ([], ["--others", "--exclude-standard"]):
        done = subprocess.run(
            ["git", "ls-files", "-z", *what], cwd=ROOT, capture_output=True, text=True, check=True
        )
        yield from (name for name in done.stdout.split("\0") if (ROOT / name).is_file())


def clone(folder: Path, *, built: bool) -> Path:
    """A fresh clone below a folder.

    ``built``: with the page as it is built here, which is not built again while its sources are
    the same.
    """
    for name in tracked():
        target = folder / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    if built and (ROOT / BUILT).is_dir():
        shutil.copytree(ROOT / BUILT, folder / "clone" / BUILT)
    return folder / "clone"


def make_wheel(cloned: Path, folder: Path, env: Mapping[str, str] = os.environ) -> Path:
    """Build the wheel of a clone into a folder. What other builds have downloaded is used."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    yarn = {
        "YARN_ENABLE_GLOBAL_CACHE": "true",
        "YARN_GLOBAL_FOLDER": str(cache / "jupyter-gpu-share" / "yarn"),
    }
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, "."]
    done = subprocess.run(
        command, cwd=cloned, env={**env, **yarn}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("*.whl")
    return made


def install(wheel: Path, folder: Path, requirement: str) -> Path:
    """Make an environment in a folder and install into it what pip would bring.

    Parameters
    ----------
    wheel: where the package itself comes from.
    requirement: what is installed, such as ``jupyter-gpu-share[lab]``.
    """
    venv.create(folder, symlinks=True)
    wanted = Requirement(requirement)
    (itself,) = Distribution.discover(name=wanted.name, path=[str(wheel)])
    for brought in _needs(itself, frozenset(wanted.extras)).values():
        _copy(brought, folder)
    python = str(folder / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    # Had something been missing, pip would look for it there and fail.
    command += ["--no-index", "--find-links", str(wheel.parent), requirement]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _needs(first: Distribution, extras: frozenset[str]) -> dict[str, Distribution]:
    """What a package needs with these extras, and what that needs, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [(first, extras)]
    while left:
        package, wanted = left.pop()
        for text in package.requires or ():
            need = Requirement(text)
            asked = ({"extra": extra} for extra in wanted or {""})
            if need.marker is not None and not any(need.marker.evaluate(one) for one in asked):
                continue
            key = (re.sub(r"[-_.]+", "-", need.name).lower(), frozenset(need.extras))
            if key in seen:
                continue
            seen.add(key)
            try:
                found[key[0]] = distribution(need.name)
            except PackageNotFoundError as error:
                raise AssertionError(f"the environment of the tests has no {need.name}") from error
            left.append((found[key[0]], key[1]))
    return found


def _copy(package: Distribution, folder: Path) -> None:
    """Put an installed package into an environment: a link to its code, and its scripts anew."""
    (packages,) = folder.glob("lib/python*/site-packages")
    (home,) = (Path(one) for one in site.getsitepackages() if package.locate_file("") == Path(one))
    for file in package.files or ():
        first = file.parts[0]
        if first != "..":
            if first != "__pycache__" and not (packages / first).exists():
                (packages / first).symlink_to(home / first)
            continue
        source = (home / file).resolve()
        inside = source.relative_to(Path(sys.prefix).resolve())
        if inside.parts[0] != "bin" and source.is_file():
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / inside)
    for script in package.entry_points.select(group="console_scripts"):
        target = folder / "bin" / script.name
        target.write_text(
            f"#!{folder / 'bin' / 'python'}\nimport sys\n"
            f"from {script.module} import {script.attr.split('.')[0]}\nsys.exit({script.attr}())\n"
        )
        target.chmod(0o755)


def variables(environment: Path, home: Path) -> dict[str, str]:
    """The variables of somebody who has just installed it: nothing of Jupyter or of the tests."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER", "JPY", "PYTHON", "IPYTHON", "XDG", "PIP", "VIRTUAL"))
    }
    path = os.pathsep.join([str(environment / "bin"), "/usr/bin", "/bin"])
    # What is left in the folder of temporary files, such as the demo's notebooks, ends with it.
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return {**kept, "HOME": str(home), "PATH": path, "TMPDIR": str(temporary)}
