"""What is kept of the size of CUDA's context, and what follows from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from gpu_share_kernel import contexts as kernel_side

from jupyter_gpu_share.engines._caps import context_bytes, framework_caps
from jupyter_gpu_share.engines.local._contexts import (
    CONTEXT_VARIABLE,
    context_files,
    measured_contexts,
    too_small,
)
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._simulated import parse_simulation
from jupyter_gpu_share.size import Size

MIB, GIB = 2**20, 2**30
H200 = Gpu("GPU-0", "NVIDIA H200", 0, 140 * GIB)
OTHER = Gpu("GPU-1", "NVIDIA L4", 1, 22 * GIB)
INSTANCE = Gpu("MIG-0", "NVIDIA H200", 2, 18 * GIB, profile="1g.18gb", parent="GPU-2")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def file_of(gpu: Gpu = H200, driver: str = "580.1") -> Path:
    (path,) = context_files([gpu], driver)
    return path


def test_both_sides_name_the_variable_and_the_version_alike() -> None:
    kernel_side._note(str(file_of()), 500 * MIB)
    assert measured_contexts([H200, OTHER, INSTANCE], "580.1") == {"GPU-0": 500 * MIB}
    assert kernel_side.FILE == CONTEXT_VARIABLE


def test_it_is_kept_by_model_and_driver_and_the_most_that_was_seen_counts() -> None:
    for amount, kept in ((500, 500), (300, 500), (620, 620)):
        kernel_side._note(str(file_of()), amount * MIB)
        assert measured_contexts([H200], "580.1") == {"GPU-0": kept * MIB}
    assert measured_contexts([H200], "615.2") == {}
    assert [path.name for path in file_of().parent.iterdir()] == ["NVIDIA_H200-580.1.json"]


def test_nobody_measures_what_would_be_of_no_use() -> None:
    assert context_files([INSTANCE], "580.1") == ()
    assert context_files(parse_simulation("A100-80GB"), None) == ()
    assert context_files([], "580.1") == ()


def test_each_of_several_gpus_has_the_file_of_its_model() -> None:
    assert context_files([OTHER, H200, H200], "580.1") == (
        file_of(OTHER),
        file_of(H200),
        file_of(H200),
    )


def test_a_folder_that_would_part_a_list_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", "/a:b")
    assert context_files([H200], "580.1") == ()


def test_only_a_private_file_of_a_sound_kind_is_believed(tmp_path: Path) -> None:
    path = file_of()
    for text in (
        "",
        "[]",
        "{}",
        '{"version": 1}',
        '{"version": 2, "bytes": 500000000}',
        '{"version": 1, "bytes": "500000000"}',
        '{"version": 1, "bytes": true}',
        '{"version": 1, "bytes": 0}',
        '{"version": 1, "bytes": 99000000000}',
    ):
        path.write_text(text)
        assert measured_contexts([H200], "580.1") == {}, text
    path.write_text(json.dumps({"version": 1, "bytes": 500 * MIB}))
    path.chmod(0o622)
    assert measured_contexts([H200], "580.1") == {}, "others can write it"
    path.chmod(0o600)
    assert measured_contexts([H200], "580.1") == {"GPU-0": 500 * MIB}
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert measured_contexts([H200], "580.1") == {}
    path.unlink()
    os.mkfifo(path)
    assert measured_contexts([H200], "580.1") == {}, "and nobody waits for it"


def test_the_measure_takes_the_place_of_the_estimate() -> None:
    assert context_bytes(35 * GIB, 140 * GIB) == GIB
    assert context_bytes(35 * GIB, 140 * GIB, 500 * MIB) == 564 * MIB
    caps = framework_caps(35 * GIB, Size.parse("1/4").fraction or 0, {}, 500 * MIB)
    assert caps["JUPYTER_GPU_SHARE_CAP_BYTES"] == str(35 * GIB - 564 * MIB)


@pytest.mark.parametrize(
    ("size", "why"), [("500MiB", True), ("501MiB", False), ("1/1000", True), ("0", False)]
)
def test_a_share_that_has_no_room_for_a_context_is_refused(size: str, why: bool) -> None:
    gpus, known = [H200], {"GPU-0": 500 * MIB}
    assert bool(too_small(Size.parse(size), gpus, known)) is why
    assert too_small(Size.parse(size), gpus, {}) is None, "an estimate refuses nothing"
    assert too_small(Size.parse(size), [H200, OTHER], known) is None, "another GPU may do"
