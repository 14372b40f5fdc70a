"""The package is built where no node is, with the JupyterLab extension in it."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from installed import (
    PATIENCE,
    ROOT,
    clone,
    install,
    make_wheel,
    readme_lines,
    readme_requirement,
    variables,
)

SHARED = "share/jupyter/labextensions/jupyter-gpu-share/"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE + 60)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of a fresh clone, made with an empty ``PATH``: no node, and no jlpm."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "empty").mkdir()
    # What other builds made may not be used.
    env = {k: v for k, v in os.environ.items() if k != "JUPYTER_GPU_SHARE_BUILD_CACHE"}
    env["PATH"] = str(folder / "empty")
    return zipfile.ZipFile(make_wheel(clone(folder, built=False), folder, env))


def test_the_extension_is_in_it(wheel: zipfile.ZipFile) -> None:
    names = [name.partition(SHARED)[2] for name in wheel.namelist() if SHARED in name]
    assert {"package.json", "install.json", "static/style.js"} <= set(names)
    assert any(name.startswith("static/remoteEntry.") for name in names)
    assert any(name.startswith("schemas/jupyter-gpu-share/") for name in names)


def test_what_administrators_copy_and_apply_is_in_it(wheel: zipfile.ZipFile) -> None:
    """The README and the documentation name it by where pip puts it."""
    share = "share/jupyter-gpu-share/etc/"
    names = {name.partition(share)[2] for name in wheel.namelist() if share in name}
    folders = ("broker", "grafana", "helm", "kubernetes", "prometheus", "systemd")
    files = {path for folder in folders for path in (ROOT / "etc" / folder).rglob("*")}
    assert names == {str(path.relative_to(ROOT / "etc")) for path in files if path.is_file()}
    assert {"kubernetes/base/kustomization.yaml", "helm/jupyter-gpu-share/Chart.yaml"} <= names


def test_nothing_else_of_it_is(wheel: zipfile.ZipFile) -> None:
    inside = [name for name in wheel.namelist() if SHARED not in name]
    assert not [name for name in inside if "node_modules" in name or "labextension" in name]


def test_the_version_is_that_of_npm(wheel: zipfile.ZipFile) -> None:
    version = json.loads((ROOT / "labextension" / "package.json").read_text())["version"]
    assert f"-{version}-" in Path(str(wheel.filename)).name
    assert f'"{version}"' in wheel.read("jupyter_gpu_share/_version.py").decode()
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    assert f"\nVersion: {version}\n" in wheel.read(metadata).decode()


def test_the_extension_manager_of_jupyterlab_finds_it(wheel: zipfile.ZipFile) -> None:
    """It lists what has this classifier on PyPI, and reads the rest from the extension."""
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    text = wheel.read(metadata).decode()
    assert "\nClassifier: Framework :: Jupyter :: JupyterLab :: Extensions :: Prebuilt\n" in text
    name = next(name for name in wheel.namelist() if name.endswith(f"{SHARED}package.json"))
    package = json.loads(wheel.read(name))
    for field in ("homepage", "author", "description"):
        assert package[field]
    assert package["repository"]["url"].startswith(package["homepage"])
    assert package["bugs"]["url"].startswith(package["homepage"])
    server = package["jupyterlab"]["discovery"]["server"]
    assert server == {"managers": ["pip"], "base": {"name": "jupyter-gpu-share"}}


# -- a new user ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's first line makes of an empty environment."""
    folder = tmp_path_factory.mktemp("user") / "venv"
    return install(Path(str(wheel.filename)), folder, readme_requirement())


def in_readme() -> list[list[str]]:
    """The commands of this package that the README tells a new user to type."""
    return [line.split()[1:] for line in readme_lines() if line.startswith("jupyter gpu-share ")]


def typed(environment: Path, home: Path, *arguments: str) -> tuple[int, str]:
    """Run ``jupyter …`` as somebody who has just installed the wheel; code and all output."""
    done = subprocess.run(
        [str(environment / "bin" / "python"), "-m", "jupyter", *arguments],
        cwd=home,
        env=variables(environment, home),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_new_user_types_what_the_readme_says(environment: Path, tmp_path: Path) -> None:
    commands = in_readme()
    assert ["gpu-share", "doctor"] in commands and ["gpu-share", "demo"] in commands
    said = {command[1]: typed(environment, tmp_path, *command) for command in commands}
    for wanted in (
        "Jupyter finds the kernel provisioner.",
        "The server extension is enabled.",
        "JupyterLab finds the page's extension",
    ):
        assert wanted in said["doctor"][1]
    assert said["demo"][0] == 0, said["demo"][1]
    assert "Three kernels shared" in said["demo"][1]


def test_kernels_of_programs_get_what_their_kernelspec_says(
    environment: Path, tmp_path: Path
) -> None:
    code, text = typed(environment, tmp_path, "gpu-share", "install", "--user")
    assert (code, "Added the kernelspec python3-gpu-1-2" in text) == (0, True), text
    assert (tmp_path / ".local/share/jupyter/kernels/python3-gpu-1-2/kernel.json").is_file()
