"""``python -m tests.cluster build|up|down|status``, from the repository's root."""

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
    parser.add_argument("action", choices=["build", "up", "down", "status"])
    action = parser.parse_args().action
    cluster = Cluster()
    try:
        if action == "build":
            build()  # tests that need no more go on meanwhile
            for name, folder in build(_kueue.PART).items():
                print(f"{name}: {folder}")
            print(f"helm: {helm_program()}")
        elif action == "up":
            cluster.up(keep=True)
            print(f"export KUBECONFIG={cluster.kubeconfig}")
        elif action == "down":
            cluster.down()
        else:
            found = cluster.status()
            print(json.dumps(found, indent=2))
            return 0 if found["healthy"] else 1
    except ClusterError as err:
        print(f"test cluster: {err}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
