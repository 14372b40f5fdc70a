"""``doctor``: each line that is not ok says what to do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from traitlets.config import Config

import jupyter_gpu_share
from jupyter_gpu_share._version import __version__
from jupyter_gpu_share.cli import _examine, _examine_page
from jupyter_gpu_share.cli._examine_page import about_page, of_application, of_extension, supported
from jupyter_gpu_share.cli._tables import findings_text
from jupyter_gpu_share.engines.base import Finding
from jupyter_gpu_share.engines.local import LocalEngine
from jupyter_gpu_share.engines.local._doctor import about_hub, about_no_gpu
from jupyter_gpu_share.engines.local._inventory import WAY_OUT
from jupyter_gpu_share.errors import AbsentGpuError, NoGpuError, NotPossible

PACKAGE = Path(jupyter_gpu_share.__file__).parent
SERVER = {"url": "http://localhost:8888/", "port": 8888}


def findings() -> Iterator[tuple[str, ast.Call]]:
    """All places of the package that make one."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                yield f"{path.name}:{node.lineno}", node


def test_every_line_that_is_not_ok_says_what_to_do() -> None:
    lacking = []
    for place, node in findings():
        level = node.args[0]
        fix = node.args[2] if len(node.args) > 2 else None
        fine = isinstance(level, ast.Constant) and level.value == "ok"
        if not fine and (fix is None or (isinstance(fix, ast.Constant) and not fix.value)):
            lacking.append(place)
    assert lacking == []


def test_the_way_out_stands_below_its_line() -> None:
    text = findings_text([Finding("ok", "Fine."), Finding("error", "Bad\x1b.", "mend it")])
    assert text.splitlines() == ["✓ ok       Fine.", "✗ error    Bad?.", " " * 13 + "→ mend it"]


def test_a_description_of_gpus_that_is_wrong_is_not_blamed_on_the_driver() -> None:
    wrong = about_no_gpu(NoGpuError("'x' is no GPU to simulate; write it like …"), "x")
    assert wrong.fix == "Correct or unset JUPYTER_GPU_SHARE_SIMULATE."
    assert "nvidia-smi" in str(about_no_gpu(NoGpuError("It does not answer.")).fix)
    absent = about_no_gpu(AbsentGpuError(f"There is none. {WAY_OUT}"))
    assert absent.what == "There is none."
    assert "JUPYTER_GPU_SHARE_SIMULATE=2xA100-80GB" in str(absent.fix)


async def test_a_hub_without_a_broker_is_told(
    one_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUPYTERHUB_USER", raising=False)
    monkeypatch.delenv("JUPYTER_GPU_SHARE_BROKER", raising=False)
    engine = LocalEngine()
    before = await engine.diagnose()
    monkeypatch.setenv("JUPYTERHUB_USER", "ann")
    after = await engine.diagnose()
    await engine.close()
    (told,) = about_hub({"JUPYTERHUB_USER": "ann"})
    assert [one for one in after if one not in before] == [told]
    assert "no broker keeps this machine's shares" in told.what


# -- JupyterLab ----------------------------------------------------------------------------------


def test_the_versions_that_are_supported_are_those_of_the_extra() -> None:
    allowed = supported()
    assert set(allowed) == {"jupyterlab", "notebook"}
    assert allowed["jupyterlab"].contains("4.6.1")
    assert not allowed["jupyterlab"].contains("4.5.9")


@pytest.mark.parametrize(
    ("version", "level"),
    [("4.6.0", "ok"), ("4.7.0rc1", "ok"), ("4.5.3", "warning"), ("5.0.0", "warning")],
)
def test_a_version_is_held_against_them(version: str, level: str) -> None:
    found = of_application("jupyterlab", version, SpecifierSet(">=4.6,<5"))
    assert found.level == level
    assert f"JupyterLab {version}" in found.what
    if level != "ok":
        assert found.fix == "pip install 'jupyterlab<5,>=4.6'"


def test_the_extension_of_the_page() -> None:
    assert of_extension("0.1.0", ["@other/thing"]).level == "ok"
    missing = of_extension(None, [])
    assert (missing.level, "--force-reinstall" in str(missing.fix)) == ("warning", True)
    off = of_extension("0.1.0", ["jupyter-gpu-share"])
    assert off.fix == "jupyter labextension enable jupyter-gpu-share"
    part = of_extension("0.1.0", ["jupyter-gpu-share:toolbar"])
    assert (part.level, part.fix) == (
        "note",
        "jupyter labextension enable jupyter-gpu-share:toolbar",
    )


def test_an_extension_that_is_switched_off_is_seen(
    jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_examine_page, "_built", lambda: "0.1.0")
    folder = jupyter_dirs / "config" / "labconfig"
    folder.mkdir()
    (folder / "page_config.json").write_text('{"disabledExtensions": {"jupyter-gpu-share": true}}')
    assert list(about_page())[-1].what == "The page's extension is switched off."


def test_without_jupyterlab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_examine_page, "_version", lambda _: None)
    (found,) = about_page()
    assert found.fix == "pip install 'jupyter-gpu-share[lab]'"


# -- kernels and servers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "config", "gpus", "level", "says"),
    [
        ("", {}, True, "ok", "every kernelspec on a share"),
        ("", {}, None, "ok", "every kernelspec on a share"),
        ("", {}, False, "note", "start kernels as without this package"),
        ("", {"GpuShareApp": {"all_kernels": False}}, True, "note", "whose kernelspec has a size"),
        ("local-provisioner", {}, True, "note", "JUPYTER_DEFAULT_PROVISIONER_NAME=local-prov"),
        ("gpu-share-provisioner", {}, True, "ok", "every kernelspec start on a share"),
    ],
)
def test_the_default_provisioner(
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    config: dict[str, Any],
    gpus: bool | None,
    level: str,
    says: str,
) -> None:
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", chosen)
    found = _examine._default(Config(config), gpus)
    assert found.level == level
    assert says in found.what


SIZED = {"kernel_provisioner": {"provisioner_name": "gpu-share-provisioner"}}


@pytest.mark.parametrize(
    ("metadata", "chosen", "level", "says"),
    [
        (SIZED, "", "ok", "Kernelspecs with a size: python3."),
        ({}, "", "note", "papermill, need one, or JUPYTER_DEFAULT_PROVISIONER_NAME=gpu-share-prov"),
        ({}, "local-provisioner", "note", "need one, or JUPYTER_DEFAULT_PROVISIONER_NAME="),
        ({}, "gpu-share-provisioner", None, ""),
    ],
)
def test_programs_without_a_server(
    monkeypatch: pytest.MonkeyPatch,
    metadata: dict[str, Any],
    chosen: str,
    level: str | None,
    says: str,
) -> None:
    """Their kernels are on a share by their kernelspec, or by the variable."""
    spec = {"argv": ["python"], "metadata": metadata}

    class Manager:
        def find_kernel_specs(self) -> dict[str, str]:
            return {"python3": ""}

        def get_all_specs(self) -> dict[str, Any]:
            return {"python3": {"spec": spec}}

    monkeypatch.setattr(_examine, "KernelSpecManager", Manager)
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", chosen)
    found = [each for each in _examine._kernels(Config(), True) if " a size" in each.what]
    assert [each.level for each in found] == ([level] if level else [])
    assert all(says in each.what for each in found)


@pytest.mark.parametrize(
    ("status", "specs", "level", "says"),
    [
        (
            {},
            ["python3"],
            "ok",
            "The Jupyter server at port 8888 gives shares to kernels of python3",
        ),
        ({"version": "0.0.1"}, ["python3"], "warning", "runs version 0.0.1"),
        ({"problem": "No GPU."}, [], "note", "gives no shares. No GPU."),
        ({"problem": "Told."}, [], "note", "gives no shares, for the reason above."),
        ({}, [], "note", "gives no shares."),
    ],
)
def test_a_server_says_itself_whether_it_gives_shares(
    monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], specs: list[str], level: str, says: str
) -> None:
    answers = {
        "gpu-share/status": {"version": __version__, "problem": None, **status},
        "gpu-share/sizes": {"kernelspecs": specs},
    }
    monkeypatch.setattr(_examine, "running_servers", lambda: iter([SERVER]))
    monkeypatch.setattr(_examine, "ask", lambda _server, _method, path: answers[path])
    (found,) = _examine._servers({"Told."})
    assert found.level == level
    assert says in found.what


def test_a_server_without_the_extension_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: Any) -> Any:
        raise NotPossible("The Jupyter server at port 8888 lacks the extension (404).")

    monkeypatch.setattr(_examine, "running_servers", lambda: iter([SERVER]))
    monkeypatch.setattr(_examine, "ask", ask)
    (found,) = _examine._servers(())
    assert (found.level, "lacks the extension" in found.what) == ("warning", True)
