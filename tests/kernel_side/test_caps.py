"""Soft caps in frameworks, which are fakes of a few lines here: the real ones are large."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from frameworks import write_fakes
from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

GIB = 2**30


@pytest.fixture
def frameworks(tmp_path: Path) -> Path:
    """A folder with the fakes."""
    return write_fakes(tmp_path)


def run(code: str, *path: Path, share: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python as in a kernel, with a share of 20 GiB."""
    full = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, [PATH, *path])),
        **({"JUPYTER_GPU_SHARE_UUID": "GPU-0"} if share else {}),
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(20 * GIB),
        **env,
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env=full,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torch_is_capped_when_cuda_comes_up_and_not_before(frameworks: Path) -> None:
    code = "import torch; c = torch.cuda; print(c.calls); c.init(); print(c.calls)"
    assert said(run(code, frameworks)) == "[]\n[(0.25, 0), (0.25, 1)]"


def test_tensorflow_gets_one_logical_device(frameworks: Path) -> None:
    code = "import tensorflow; print(tensorflow.config.limits)"
    assert said(run(code, frameworks)) == "[('gpu0', 20480)]"


def test_without_a_share_nothing_is_capped(frameworks: Path) -> None:
    code = "import tensorflow; print(tensorflow.config.limits)"
    assert said(run(code, frameworks, share=False)) == "[]"


def test_a_share_whose_memory_is_not_known_is_not_capped_at_nothing(frameworks: Path) -> None:
    code = "import tensorflow, torch; torch.cuda.init(); print(tensorflow.config.limits)"
    code += "; print(torch.cuda.calls)"
    assert said(run(code, frameworks, JUPYTER_GPU_SHARE_MEMORY_BYTES="0")) == "[]\n[]"


def test_a_framework_whose_interface_changed_works_and_says_so(frameworks: Path) -> None:
    (frameworks / "torch" / "cuda.py").write_text("ready = True\n")
    done = run("import torch; print(torch.cuda.ready)", frameworks)
    assert said(done) == "True"
    assert "torch.cuda is not capped to this kernel's share" in done.stderr


def test_modules_keep_their_own_loader(frameworks: Path) -> None:
    code = "import torch.cuda as c; print(type(c.__spec__.loader).__name__, c.__file__[-7:])"
    assert said(run(code, frameworks)) == "SourceFileLoader cuda.py"


def test_another_sitecustomize_runs_too(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.mine = 'ran'\n")
    code = "import sys, sitecustomize; print(sys.mine, sitecustomize.__file__)"
    expected = f"ran {tmp_path / 'sitecustomize.py'}"
    assert said(run(code, tmp_path)) == expected
    assert said(run(code, tmp_path, share=False)) == expected


def test_nothing_heavy_is_imported_at_the_start() -> None:
    code = "import sys; print(*sorted(m for m in sys.modules if 'gpu_share' in m))"
    assert said(run(code)) == "gpu_share_kernel gpu_share_kernel.caps"
    heavy = {"json", "re", "subprocess", "asyncio", "pathlib", "typing"}
    plain = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    with_share = said(run("import sys; print(*sys.modules)"))
    assert not (set(with_share.split()) - set(plain.stdout.split())) & heavy


def test_a_broken_share_does_not_break_python() -> None:
    done = run("print('on')", JUPYTER_GPU_SHARE_MEMORY_BYTES="nonsense")
    assert said(done) == "on"
