"""``python -m tests.cluster build|build-all|up|down|status``, from the repository's root.

``build`` makes what the cluster itself needs, ``build-all`` Kueue and Helm, too.
"""

from __future__ import annotations

import argparse
import json
import sys

from . import Cluster, ClusterError, _kueue
from ._helm import helm_program
from .build import build


def main() -> int:
    """Do one thing; 1 if it failed, and for ``status`` if the cluster is not up."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("action", choices=["build", "build-all", "up", "down", "status"])
    action = parser.parse_args().action
    cluster = Cluster()
    try:
        if action in ("build", "build-all"):
            found = build()
            if action == "build-all":
                found |= build(_kueue.PART)
                found["helm"] = helm_program()
            for name, place in found.items():
                print(f"{name}: {place}")
        elif action == "up":
            cluster.up(keep=True)
            print(f"export KUBECONFIG={cluster.kubeconfig}")
        elif action == "down":
            cluster.down()
        else:
            status = cluster.status()
            print(json.dumps(status, indent=2))
            return 0 if status["healthy"] else 1
    except ClusterError as err:
        print(f"test cluster: {err}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
