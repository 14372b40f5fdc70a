"""Run all benchmarks: ``python -m bench [--report-only] [NAME ...]``.

Prints a table and writes ``build/bench.json``. The exit code is 1 where a goal was missed, unless
``--report-only`` is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import (
    broker,
    keep,
    lab,
    lab_events,
    launch,
    load,
    look,
    queue,
    relays,
    replay,
    traffic,
    users,
)
from .kubernetes import brokered, pods, room, scale, wake
from .rows import Row, draw

SUBJECTS = {
    "broker": broker.rows,
    "broker-cluster": brokered.rows,
    "keep": keep.rows,
    "launch": launch.rows,
    "traffic": traffic.rows,
    "load": load.rows,
    "lab": lab.rows,
    "look": look.rows,
    "pixels": lab_events.rows,
    "pods": pods.rows,
    "queue": queue.rows,
    "relays": relays.rows,
    "replay": replay.rows,
    "room": room.rows,
    "scale": scale.rows,
    "users": users.rows,
    "wake": wake.rows,
}
OUTPUT = Path("build") / "bench.json"


def main() -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*SUBJECTS, []], help="subjects (all)")
    parser.add_argument(
        "--report-only", action="store_true", help="exit 0 even if a goal is missed"
    )
    arguments = parser.parse_args()
    rows: list[Row] = []
    OUTPUT.parent.mkdir(exist_ok=True)
    for name in arguments.names or SUBJECTS:
        print(f"measuring: {name} …", file=sys.stderr, flush=True)
        rows += SUBJECTS[name]()
        OUTPUT.write_text(json.dumps([row.to_json() for row in rows], indent=2) + "\n")
    print(draw(rows))
    missed = [row.name for row in rows if not row.reached]
    if missed:
        print(f"goals missed: {', '.join(missed)}")
    return 1 if missed and not arguments.report_only else 0


if __name__ == "__main__":
    sys.exit(main())
