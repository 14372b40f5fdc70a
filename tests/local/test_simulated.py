"""Simulated GPUs: how they are written, and what is read of their use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.engines.local._simulated import parse_simulation, simulated_use, slug
from jupyter_gpu_share.errors import NoGpuError

GIB = 2**30


def test_what_can_be_written() -> None:
    (gpu,) = parse_simulation("A100-80GB")
    assert (gpu.uuid, gpu.memory_bytes) == ("SIM-A100-80GB-0", 80 * GIB)
    assert gpu.model == "A100-80GB (simulated)"
    two = parse_simulation("2xA100-80GB, L4-24GB")
    assert [one.uuid for one in two] == ["SIM-A100-80GB-0", "SIM-A100-80GB-1", "SIM-L4-24GB-2"]
    assert [one.index for one in two] == [0, 1, 2]
    assert len({one.uuid for one in parse_simulation("16xH100-SXM-80GB")}) == 16


def test_mig_instances() -> None:
    found = parse_simulation("A100-40GB/mig-1g.5gb*7")
    assert len(found) == 7
    assert {one.profile for one in found} == {"1g.5gb"}
    assert {one.memory_bytes for one in found} == {5 * GIB}
    assert {one.parent for one in found} == {"SIM-A100-40GB-0"}
    with pytest.raises(NoGpuError, match="more than the simulated GPU"):
        parse_simulation("A100-40GB/mig-1g.10gb*7")


@pytest.mark.parametrize(
    "text", ["A100", "0xA100-80GB", "2x", "A100-0GB", "999xA100-80GB", "a b-1GB", "A100-80GB,", "-"]
)
def test_what_is_no_gpu(text: str) -> None:
    with pytest.raises(NoGpuError, match="write JUPYTER_GPU_SHARE_SIMULATE like 2xA100-80GB"):
        parse_simulation(text)


def test_a_files_name() -> None:
    assert slug("2xA100-80GB, L4/../x") == "2xA100-80GB_L4_.._x"


def test_only_the_living_count(tmp_path: Path) -> None:
    me = os.getpid()

    def write(pid: int, start: str, **fields: object) -> None:
        row = {"pid": pid, "start_time": start, "used": {"SIM-0": 5}, "busy_until": 0, **fields}
        (tmp_path / f"{pid}.json").write_text(json.dumps(row))

    write(me, "1")
    assert simulated_use(tmp_path, [me]) == {}
    write(me, this_process().start_time)
    assert simulated_use(tmp_path, [me])[me].used == {"SIM-0": 5}
    assert not simulated_use(tmp_path, [me])[me].busy
    write(me, this_process().start_time, busy_until=2**40)
    assert simulated_use(tmp_path, [me])[me].busy
    # What a kernel writes there is its user's, and takes nobody else's readings away.
    write(me, this_process().start_time, used={"SIM-0": float("inf")})
    assert simulated_use(tmp_path, [me]) == {}
    for text in ("{", "[]", "[" * 100_000):
        (tmp_path / f"{me}.json").write_text(text)
        assert simulated_use(tmp_path, [me, 2**30]) == {}
