"""A kernelspec's command in a pod."""

from __future__ import annotations

import pytest

from jupyter_gpu_share.engines.kubernetes._command import command_of, flags_of

_REST = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.mark.parametrize(
    "program",
    [
        "python",
        "python3",
        "python3.13t",
        "/opt/conda/envs/ml/bin/python3.11",
        r"C:\Program Files\Python\python.exe",
    ],
)
def test_the_images_own_python_runs_kernels_of_python(program: str) -> None:
    assert command_of([program, *_REST], "/usr/bin/python3") == ["/usr/bin/python3", *_REST]
    assert flags_of([program, "-Xfrozen_modules=off", "-I", *_REST]) == (
        "-Xfrozen_modules=off",
        "-I",
    )


@pytest.mark.parametrize("program", ["R", "/usr/bin/julia", "pythonic", "bash", "xpython"])
def test_other_programs_are_called_as_they_are(program: str) -> None:
    assert command_of([program, "--slave"], "python3") == [program, "--slave"]
    assert flags_of([program, "--slave", "-m"]) == ()


def test_an_empty_command_stays_empty() -> None:
    assert command_of([], "python3") == []
    assert flags_of([]) == ()
