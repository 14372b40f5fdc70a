"""Which of the server's environment reaches a pod."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.allocations import Device, Isolation, Share
from jupyter_gpu_share.engines.kubernetes._environment import (
    ALLOWED,
    kernel_environment,
    share_environment,
)

#: What a Jupyter server may have, and none of its kernels in pods should.
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s",
    "JUPYTER_TOKEN": "s",
    "JUPYTERHUB_API_TOKEN": "s",
    "JPY_API_TOKEN": "s",
    "CONFIGPROXY_AUTH_TOKEN": "s",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "KUBECONFIG": "/root/.kube/config",
    "GITHUB_TOKEN": "s",
}
#: True on the server's machine only.
PLACES = {
    "PATH": "/server/bin",
    "HOME": "/home/server",
    "PYTHONPATH": "/server",
    "PYTHONHOME": "/server",
    "PYTHONSTARTUP": "/server/a.py",
    "LD_PRELOAD": "/server/a.so",
    "LD_LIBRARY_PATH": "/server",
    "VIRTUAL_ENV": "/server/venv",
    "CONDA_PREFIX": "/server/conda",
    "JUPYTER_RUNTIME_DIR": "/server/run",
    "JPY_PARENT_PID": "1",
    "CUDA_VISIBLE_DEVICES": "3",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "JUPYTER_GPU_SHARE_UUID": "GPU-other",
    "JUPYTER_GPU_SHARE_MEMORY_BYTES": "1",
}


def test_by_default_language_time_and_the_notebooks_name_come_along() -> None:
    wanted = {"LANG": "de_DE.UTF-8", "LC_TIME": "C", "TZ": "UTC", "JPY_SESSION_NAME": "a.ipynb"}
    assert kernel_environment(SECRETS | PLACES | wanted, (), ALLOWED) == wanted


def test_nothing_comes_along_that_is_not_named() -> None:
    assert kernel_environment({"A": "1", **SECRETS}, (), ()) == {}


def test_even_a_pattern_for_all_leaves_credentials_of_jupyter_and_places_behind() -> None:
    passed = kernel_environment(SECRETS | PLACES | {"A": "1"}, (), ["*"])
    assert passed == {"A": "1", "AWS_SECRET_ACCESS_KEY": "s", "GITHUB_TOKEN": "s"}


@pytest.mark.parametrize("name", sorted(PLACES))
def test_what_a_kernelspec_declares_comes_along(name: str) -> None:
    assert kernel_environment({name: "x", "B": "1"}, [name], ()) == {name: "x"}


def test_a_kernelspec_declares_nothing_that_is_not_there() -> None:
    assert kernel_environment({}, ["A"], ["*"]) == {}


@pytest.mark.parametrize(
    ("pattern", "passes"),
    [
        ("WANDB_*", {"WANDB_PROJECT", "WANDB_"}),
        ("*_PROJECT", {"WANDB_PROJECT"}),
        ("wandb_*", set()),
        ("WANDB_?ROJECT", set()),
        ("WANDB_[P]ROJECT", set()),
        ("WANDB_.*", set()),
        ("W*B_*T", {"WANDB_PROJECT"}),
        ("", set()),
    ],
)
def test_a_star_is_all_that_a_pattern_knows(pattern: str, passes: set[str]) -> None:
    server = {"WANDB_PROJECT": "a", "WANDB_": "b", "OTHER": "c"}
    assert set(kernel_environment(server, (), [pattern])) == passes


@pytest.mark.parametrize(
    "name",
    ["", "1A", "A-B", "A B", "A\n", "A=B", "A$(B)", "BASH_FUNC_x%%", "\u00c4", "A\0", "{{A}}"],
)
def test_what_is_no_name_of_a_variable_stays_behind(name: str) -> None:
    assert kernel_environment({name: "x"}, [name], ["*"]) == {}


def test_a_value_with_a_null_character_stays_behind() -> None:
    assert kernel_environment({"A": "x\0y", "B": "x"}, ["A"], ["*"]) == {"B": "x"}


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_values_stay_as_they_are(value: str) -> None:
    assert kernel_environment({"A": value}, (), ["A"]) == {"A": value}


@given(
    st.dictionaries(st.from_regex(r"[A-Z_]{1,12}", fullmatch=True), st.text(max_size=5)),
    st.lists(st.from_regex(r"[A-Z_*]{0,6}", fullmatch=True), max_size=4),
)
def test_nothing_is_made_up_or_changed(server: dict[str, str], allowed: list[str]) -> None:
    before = dict(server)
    assert kernel_environment(server, (), allowed).items() <= server.items()
    assert server == before


GPU = (Device("GPU-1", "A100", "node-1"), Device("GPU-2", "A100", "node-1"))


def test_a_kernel_without_a_share_sees_no_gpu() -> None:
    told = share_environment(Share((), 0, Fraction(0), Isolation.NONE), {})
    assert told == {"CUDA_VISIBLE_DEVICES": "", "JUPYTER_GPU_SHARE_MEMORY_BYTES": "0"}


def test_a_share_is_told_and_the_frameworks_keep_to_it() -> None:
    share = Share(GPU, 20 * 2**30, Fraction(1, 4), Isolation.FRAMEWORK)
    told = share_environment(share, {})
    assert told["JUPYTER_GPU_SHARE_UUID"] == "GPU-1,GPU-2"
    assert told["JUPYTER_GPU_SHARE_FRACTION"] == "1/4"
    assert told["CUPY_GPU_MEMORY_LIMIT"] == str(19 * 2**30), "1 GiB is CUDA's own"
    assert "JUPYTER_GPU_SHARE_SIMULATED_BYTES" not in told
    lower = {"CUPY_GPU_MEMORY_LIMIT": str(2**30)}
    assert share_environment(share, lower)["CUPY_GPU_MEMORY_LIMIT"] == str(2**30)


def test_simulated_memory_is_counted_on_each_gpu() -> None:
    share = Share(GPU, 20 * 2**30, Fraction(1, 4), Isolation.FRAMEWORK, simulated=True)
    told = share_environment(share, {})
    assert told["JUPYTER_GPU_SHARE_SIMULATED_BYTES"] == f"{80 * 2**30},{80 * 2**30}"
    assert "CUPY_GPU_MEMORY_LIMIT" not in told
