"""Something is not installed, or a file is damaged: one line, and one way out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from jupyter_gpu_share.cli import _commands, _demo, _listing, _main, main
from jupyter_gpu_share.cli._unexpected import in_a_line

KINDS = [
    ["list"],
    ["sizes"],
    ["doctor"],
    ["install", "--user"],
    ["resize", "x", "1/2"],
    ["release", "x"],
    ["wake", "x"],
    ["kept", "x"],
    ["keep", "x", "5"],
    ["replay", "nowhere.csv"],
    ["demo"],
]


@pytest.fixture
def run(one_gpu: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; its code and all that it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        printed = capfd.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return code, printed.out, printed.err

    return run


@pytest.fixture
def no_kernelspec(one_gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where ipykernel is not installed."""
    monkeypatch.setattr("jupyter_client.kernelspec.jupyter_path", lambda *_: [])
    monkeypatch.setitem(sys.modules, "ipykernel.kernelspec", None)
    assert KernelSpecManager().find_kernel_specs() == {}


def refused(done: tuple[int, str, str]) -> str:
    """The one line of an error."""
    code, _, told = done
    assert code == 1
    (line,) = told.splitlines()
    return line


@pytest.mark.usefixtures("no_kernelspec")
def test_without_a_kernelspec_the_one_command_is_named(run: Callable[..., Any]) -> None:
    says = "There is no kernelspec 'python3'. Install it: pip install ipykernel"
    assert says in refused(run("install", "--user"))
    assert "There is none at all. Install that of Python: pip install ipykernel" in refused(
        run("install", "--user", "--kernel", "julia")
    )
    code, text, _ = run("doctor")
    assert code == 1
    assert "There is no kernelspec: no kernel can start.\n             → pip install ip" in text
    line = refused(run("demo"))
    assert line == "gpu-share: The demo needs ipykernel: pip install 'jupyter-gpu-share[demo]'"


@pytest.mark.usefixtures("no_kernelspec")
def test_without_nbclient_the_demo_names_both(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        _demo, "find_spec", lambda name: None if name == "nbclient" else find_spec(name)
    )
    assert "needs nbclient and ipykernel: pip install" in refused(run("demo"))


def test_a_damaged_kernelspec_is_named(run: Callable[..., Any], one_gpu: Path) -> None:
    spec = one_gpu / "data" / "kernels" / "mine"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text("{")
    assert "The kernelspec 'mine' cannot be read: " in refused(
        run("install", "--user", "--kernel", "mine")
    )
    _, text, told = run("doctor")
    assert "The kernelspec mine cannot be read.\n" in text
    assert "→ jupyter kernelspec remove mine" in text
    assert told == ""


def test_a_kernelspec_of_another_provisioner_is_not_taken_for_none(
    run: Callable[..., Any], one_gpu: Path
) -> None:
    spec = one_gpu / "data" / "kernels" / "far"
    spec.mkdir(parents=True)
    stanza = {"kernel_provisioner": {"provisioner_name": "not-here"}}
    text = {"argv": ["x"], "display_name": "x", "language": "python", "metadata": stanza}
    (spec / "kernel.json").write_text(json.dumps(text))
    assert "'far' needs a kernel provisioner that is not installed" in refused(
        run("install", "--user", "--kernel", "far")
    )


def test_a_kernelspec_of_an_environment_that_is_gone(
    run: Callable[..., Any], one_gpu: Path
) -> None:
    spec = one_gpu / "data" / "kernels" / "old"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        '{"argv": ["/gone/bin/python"], "display_name": "x", "language": "python"}'
    )
    assert (
        "The kernelspec old starts a program that is not there: /gone/bin/python."
        in run("doctor")[1]
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("c.SizePolicy.offered = [", "cannot be read: SyntaxError: "),
        ("import nothing_like_that", "cannot be read: ModuleNotFoundError: No module named"),
        ("c.SizePolicy.max_devices = 'many'", "A setting cannot be used: "),
    ],
)
@pytest.mark.parametrize("arguments", [["sizes"], ["doctor"], ["install", "--user"], ["demo"]])
def test_a_damaged_configuration_is_one_line(
    run: Callable[..., Any], one_gpu: Path, text: str, says: str, arguments: list[str]
) -> None:
    from jupyter_gpu_share.runtime import Runtime

    Runtime.clear_instance()
    (one_gpu / "config" / "jupyter_server_config.py").write_text(text)
    line = refused(run(*arguments))
    assert says in line
    assert "jupyter_server_config" in line


@pytest.mark.parametrize("arguments", KINDS, ids=" ".join)
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("odd\nthing"), "an error of its own: RuntimeError: odd thing. Run it again"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied. Give this user"),
        (ModuleNotFoundError("No", name="kubernetes.aio"), "pip install kubernetes"),
    ],
)
def test_no_command_ends_in_a_traceback(
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: Exception,
    says: str,
) -> None:
    async def fail(_: Any) -> int:
        raise error

    monkeypatch.setattr(_commands, f"run_{arguments[0]}", fail)
    assert says in refused(run(*arguments))
    with pytest.raises(type(error)):
        main(["--debug", *arguments])


def test_what_cannot_be_shown_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(_listing, "running_servers", lambda: iter(()))
        _main._print_anything()
        print("✓ ½")
    assert (tmp_path / "out").read_text() == "? ?\n"


def test_an_error_without_words_has_its_name() -> None:
    assert "RuntimeError. Run it again" in in_a_line(RuntimeError())
    assert in_a_line(OSError(28, "No space left on device", "/d")) == (
        "/d: No space left on device. Make room there."
    )
