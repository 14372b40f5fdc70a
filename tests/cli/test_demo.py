"""The demo's plan for what there is, and its errors where there is nothing to show it on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import KERNEL_IMAGE
from cluster import demo as cluster_demo

from jupyter_gpu_share.cli import main
from jupyter_gpu_share.cli._demo import plan
from jupyter_gpu_share.engines.base import Capacity

GIB = 2**30


def gpu(node: str = "one", free: int = 80) -> Capacity:
    return Capacity("GPU-1", "A100", node, 80 * GIB, free * GIB)


@pytest.mark.parametrize(
    ("gpus", "local", "sizes", "waits"),
    [
        ([gpu()], True, ["1/2", "1/4", "1/2"], True),
        ([gpu(free=20)] * 3, True, ["1/2", "1/4", "3x1"], True),
        ([gpu()], False, ["1/2", "1/4", "1/2"], True),
        ([gpu(), gpu()], False, ["1/2", "1/4", "2x1"], True),
        # What somebody else may want is not taken only to show a queue.
        ([gpu(), gpu(free=70)], False, ["1/2", "1/4", "1/4"], False),
        ([gpu(), gpu("other")], False, ["1/2", "1/4", "1/4"], False),
        ([gpu()] * 3, False, ["1/2", "1/4", "1/4"], False),
        ([], False, ["8GiB", "4GiB", "4GiB"], False),
    ],
)
def test_the_plan(gpus: list[Capacity], local: bool, sizes: list[str], waits: bool) -> None:
    shown = plan(gpus, local=local)
    assert ([part.size for part in shown.parts], shown.waits) == (sizes, waits)


@pytest.fixture
def run(
    jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the command where no cluster is at hand; its one line of error."""
    monkeypatch.setenv("HOME", str(jupyter_dirs))
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "")  # the demo sets it

    def run(*arguments: str) -> str:
        assert main(["demo", "--engine", "kubernetes", *arguments]) == 1
        printed = capfd.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        return line

    return run


def test_no_image_is_set(run: Callable[..., str]) -> None:
    line = run()
    assert "No image is set for kernels" in line
    assert "--image (make demo: IMAGE=…) or as c.KubernetesEngine.image" in line


def test_no_cluster_is_at_hand(run: Callable[..., str]) -> None:
    line = run("--image", "an-image")
    assert "no usable access to a Kubernetes cluster" in line
    assert "there is no such file: ~/.kube/config." in line
    assert "Set KUBECONFIG" in line


def test_a_kubeconfig_that_is_not_there(
    run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere:/nowhere-else")
    assert "there is no such file: /nowhere:/nowhere-else. Set KUBECONFIG" in run(
        "--image", "an-image"
    )


def test_the_configuration_may_name_the_image(run: Callable[..., str], jupyter_dirs: Path) -> None:
    (jupyter_dirs / "config" / "jupyter_server_config.py").write_text(
        'c.KubernetesEngine.images = {"python3": "an-image"}\n'
    )
    assert "no usable access" in run()


def test_which_cluster_is_at_hand(jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(jupyter_dirs))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert not cluster_demo.at_hand()
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert cluster_demo.at_hand()  # and the demo says that there is none
    monkeypatch.delenv("KUBECONFIG")
    settings = jupyter_dirs / "config" / "jupyter_server_config.py"
    settings.write_text('c.KubernetesEngine.kubeconfig = "/of/the/administrator"\n')
    assert cluster_demo.at_hand()
    settings.unlink()
    (jupyter_dirs / ".kube").mkdir()
    (jupyter_dirs / ".kube" / "config").touch()
    assert cluster_demo.at_hand()


def test_the_test_clusters_image_is_known() -> None:
    assert cluster_demo.with_image(["--output", "x"]) == ["--output", "x", "--image", KERNEL_IMAGE]
    assert cluster_demo.with_image(["--image=y"]) == ["--image=y"]


class FakeCluster:
    """Stands for the test cluster, and notes what is done with it."""

    kubeconfig = Path("/of/the/test/cluster")

    def __init__(self, running: bool) -> None:
        self.running = running
        self.done: list[str] = []

    def up(self) -> bool:
        self.done.append("up")
        return not self.running

    def down(self) -> None:
        self.done.append("down")

    def release(self) -> None:
        self.done.append("release")


@pytest.mark.parametrize(("running", "end"), [(False, "down"), (True, "release")])
def test_a_cluster_that_was_started_for_the_demo_ends_with_it(
    running: bool, end: str, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster: Any = FakeCluster(running)
    assert cluster_demo.on_test_cluster(cluster, ["sh", "-c", "echo $KUBECONFIG; exit 3"]) == 3
    assert cluster.done == ["up", end]
    printed = capfd.readouterr()
    assert printed.out == "/of/the/test/cluster\n"
    assert "no kubeconfig is set; the demo gets a cluster of one node" in printed.err
    assert ("ending the cluster" in printed.err) is not running


def test_a_demo_that_cannot_be_run_ends_its_cluster_as_well() -> None:
    cluster: Any = FakeCluster(running=False)
    with pytest.raises(FileNotFoundError):
        cluster_demo.on_test_cluster(cluster, ["/no/such/demo"])
    assert cluster.done == ["up", "down"]


@pytest.mark.parametrize(
    ("variables", "command"),
    [
        ([], "jupyter-gpu-share demo"),
        (["ENGINE=kubernetes"], "python -m tests.cluster.demo"),
        (["ENGINE=kubernetes", "IMAGE=x:1"], "python -m tests.cluster.demo --image x:1"),
    ],
)
def test_make_demo(variables: list[str], command: str) -> None:
    assert dry_run("demo", *variables)[-1].strip().endswith(command)


def test_the_demo_installs_what_a_demo_needs(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    variables = ("PYTHON=python3", f"VENV={venv}")
    made = f"scripts/make-venv python3 {venv}"
    assert f"{made} demo" in dry_run("demo", *variables)
    assert made in dry_run("demo", *variables, "ENGINE=kubernetes")
    # Where everything is installed already, that serves.
    venv.mkdir()
    stamp = venv / "stamp"
    stamp.touch()
    os.utime(stamp, (2**31, 2**31))  # newer than what it is made of
    assert not [line for line in dry_run("demo", *variables) if "make-venv" in line]


def dry_run(*arguments: str) -> list[str]:
    """What make would do."""
    done = subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=Path(__file__).parents[2],
        # These tests may be run by make, which would tell this one how to work, and what to say.
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()
