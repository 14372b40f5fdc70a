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


def test_the_first_lines_of_notebooks_with_tensorflow_work(frameworks: Path) -> None:
    """TensorFlow refuses to let memory grow of a device that has a limit, though it does grow."""
    code = "import tensorflow as tf\n"
    code += "for gpu in tf.config.list_physical_devices('GPU'):\n"
    code += "    tf.config.experimental.set_memory_growth(gpu, True)\n"
    code += "try: tf.config.experimental.set_memory_growth('gpu9', True)\n"
    code += "except ValueError: print(tf.config.limits)"
    assert said(run(code, frameworks)) == "[('gpu0', 20480)]"


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ("2048", "(2048,)"),
        ("9000, 9000", "(9000, 9000)"),
        ("40000", "(20480,)"),
        ("30720, 10240", "(15360, 5120)"),
        ("None", "(20480,)"),
        ("None, 20480", "(10240, 10240)"),
    ],
)
@pytest.mark.parametrize(
    "name", ["set_logical_device_configuration", "experimental.set_virtual_device_configuration"]
)
def test_devices_that_a_cell_makes_in_tensorflow_are_kept_and_together_below_the_cap(
    asked: str, left: str, name: str, frameworks: Path
) -> None:
    code = "import tensorflow as tf; c = tf.config; make = c.LogicalDeviceConfiguration\n"
    code += f"c.{name}('gpu0', [make(each, 7) for each in [{asked}]]); print(c.limits[-1][1:])"
    assert said(run(code, frameworks)) == left


def test_other_devices_of_tensorflow_are_left_as_they_are(frameworks: Path) -> None:
    code = "import tensorflow as tf; c = tf.config; one = c.LogicalDeviceConfiguration(40000)\n"
    code += "c.set_logical_device_configuration('cpu0', [one]); print(c.limits[-1])"
    assert said(run(code, frameworks)) == "('cpu0', 40000)"


def test_a_share_without_known_bytes_is_held_to_its_fraction(frameworks: Path) -> None:
    """Labels of some clouds tell how many share a GPU, and not how much memory it has."""
    unknown = {
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": "0",
        "JUPYTER_GPU_SHARE_FRACTION": "1/4",
        "JUPYTER_GPU_SHARE_ISOLATION": "framework",
    }
    code = "import torch; c = torch.cuda; c.init(); c.set_per_process_memory_fraction(0.9)\n"
    code += "import tensorflow; print(c.calls, tensorflow.config.limits)"
    assert said(run(code, frameworks, **unknown)) == (
        "[(0.25, 0), (0.25, 1), (0.9, 1), (0.25, 1)] []"
    )
    unknown["JUPYTER_GPU_SHARE_ISOLATION"] = "none"
    code = "import torch; c = torch.cuda; c.init(); print(c.calls)"
    assert said(run(code, frameworks, **unknown)) == "[]"


def test_a_lower_fraction_of_a_cell_is_kept_in_pytorch(frameworks: Path) -> None:
    """Whenever it is set, and whatever the share becomes; no other is above the cap."""
    code = "import torch; c = torch.cuda\n"
    code += "def told():\n    print(c.calls); c.calls.clear()\n"
    code += "c.set_per_process_memory_fraction(0.1, 0); told()\n"
    code += "c.set_per_process_memory_fraction(0.9); told()\n"
    code += "import os, torch as _; from gpu_share_kernel import caps\n"
    for gib in (4, 40):
        code += f"os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES'] = str({gib} * 2**30)\n"
        code += "caps.renew_torch(); told()\n"
    code += "c.set_per_process_memory_fraction(0.8, 'cuda:0'); told()\n"
    code += "try: c.set_per_process_memory_fraction(2)\n"
    code += "except ValueError: caps.renew_torch(); told()\n"
    assert said(run(code, frameworks)).split("\n") == [
        "[(0.25, 0), (0.25, 1), (0.1, 0)]",
        "[(0.9, 1), (0.25, 1)]",
        "[(0.05, 0), (0.05, 1)]",
        "[(0.1, 0), (0.5, 1)]",
        "[(0.8, 0), (0.5, 0)]",
        "[(0.5, 0), (0.5, 1)]",
    ]


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_a_lower_fraction_of_pytorchs_own_variable_is_kept(name: str, frameworks: Path) -> None:
    code = "import torch; c = torch.cuda; c.init(); print(c.calls)"
    text = "expandable_segments:True, per_process_memory_fraction:{}"
    low, high = (run(code, frameworks, **{name: text.format(part)}) for part in (0.125, 0.75))
    assert said(low) == "[(0.125, 0), (0.125, 1)]"
    assert said(high) == "[(0.25, 0), (0.25, 1)]"


def test_frameworks_leave_room_for_the_context(frameworks: Path) -> None:
    code = "import tensorflow, torch; torch.cuda.init(); print(tensorflow.config.limits)"
    code += "; print(torch.cuda.calls)"
    done = run(code, frameworks, JUPYTER_GPU_SHARE_CAP_BYTES=str(16 * GIB))
    assert said(done) == "[('gpu0', 16384)]\n[(0.2, 0), (0.2, 1)]"


@pytest.mark.parametrize(("asked", "left"), [("0.1", "0.1"), ("0.9", "0.2375"), ("x", "0.2375")])
def test_jax_starts_where_a_cell_has_set_its_new_variable(
    frameworks: Path, asked: str, left: str
) -> None:
    (frameworks / "jaxlib.py").write_text("")
    code = f"import os; os.environ['XLA_CLIENT_MEM_FRACTION'] = '{asked}'; import jaxlib; print("
    code += "os.environ['XLA_CLIENT_MEM_FRACTION'], 'XLA_PYTHON_CLIENT_MEM_FRACTION' in os.environ)"
    env = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2375"}
    assert said(run(code, frameworks, **env)) == f"{left} False"
    # A saved kernel whose share is smaller now: what it had set comes back without ours.
    gone = "del os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION']"
    saved = code.replace("import jaxlib", f"{gone}; import jaxlib")
    smaller = said(run(saved, frameworks, JUPYTER_GPU_SHARE_FRACTION="1/8", **env))
    assert smaller == ("0.1 False" if asked == "0.1" else "0.125 False")
    alone = "import os, jaxlib; print(os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])"
    assert said(run(alone, frameworks, **env)) == "0.2375"


def test_a_gpu_that_is_not_of_the_share_is_named_at_once(frameworks: Path) -> None:
    code = "import torch; torch.cuda.init()"
    share = {"JUPYTER_GPU_SHARE_UUID": "GPU-7"}
    done = run(code, frameworks, **share)
    assert done.returncode == 0
    assert "no share of the GPU that it uses now (GPU-0)" in done.stderr
    own = {"JUPYTER_GPU_SHARE_UUID": "GPU-7,GPU-0"}
    assert run(code, frameworks, **own).stderr == ""


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


def test_a_framework_that_a_finder_of_its_own_finds_is_capped(
    frameworks: Path, tmp_path: Path
) -> None:
    """As one that was installed to be worked on."""
    away = tmp_path / "sources"
    away.mkdir()
    (frameworks / "tensorflow.py").rename(away / "tensorflow.py")
    code = f"""
import importlib.util, sys
class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "tensorflow":
            return importlib.util.spec_from_file_location(name, {str(away / "tensorflow.py")!r})
sys.meta_path.append(Editable)
import tensorflow; print(tensorflow.config.limits)
"""
    assert said(run(code, frameworks)) == "[('gpu0', 20480)]"


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
