"""``make demo ENGINE=kubernetes``: the demo on the cluster at hand, else on the test cluster.

``python -m tests.cluster.demo``, from the repository's root, takes the options of
``jupyter gpu-share demo``. A test cluster that it has started itself is ended after the demo.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import KERNEL_IMAGE, Cluster, ClusterError
from .build import say, why_not_here

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def main(options: list[str]) -> int:
    """Run the demo; its exit code."""
    demo = [str(Path(sys.executable).with_name("jupyter-gpu-share")), "demo"]
    demo += ["--engine", "kubernetes"]
    cluster = Cluster()
    if at_hand():
        if os.environ.get("KUBECONFIG") == str(cluster.kubeconfig):
            options = with_image(options)
    elif reason := why_not_here():
        say(f"not started for the demo: {reason}")
    else:
        return on_test_cluster(cluster, [*demo, *with_image(options)])
    # In the place of this process: what interrupts it interrupts the demo.
    return os.execv(demo[0], [*demo, *options])


def at_hand() -> bool:
    """Whether the demo finds a cluster by itself, or was told of one."""
    from jupyter_gpu_share._configuration import from_files

    return (
        bool(os.environ.get("KUBECONFIG"))
        or (Path.home() / ".kube" / "config").exists()
        or _ACCOUNT.exists()
        or bool(from_files().KubernetesEngine.get("kubeconfig"))
    )


def with_image(options: list[str]) -> list[str]:
    """The options, with the test cluster's own image unless they name another."""
    named = any(option.partition("=")[0] == "--image" for option in options)
    return options if named else [*options, "--image", KERNEL_IMAGE]


def on_test_cluster(cluster: Cluster, demo: list[str]) -> int:
    """Run a command with the test cluster's kubeconfig; its exit code."""
    say("no kubeconfig is set; the demo gets a cluster of one node on this machine, for as long")
    say("as it runs. Its GPUs are simulated.")
    before = signal.signal(signal.SIGTERM, _end)
    try:
        started = cluster.up()
        try:
            env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
            return subprocess.run(demo, env=env, check=False).returncode
        finally:
            if started:
                say("the demo is over; ending the cluster")
                cluster.down()
            else:
                cluster.release()
    except ClusterError as err:
        say(str(err))
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(*_: Any) -> None:
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
