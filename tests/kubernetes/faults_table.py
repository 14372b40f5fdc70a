"""Makes docs/faults.md from what ``make faults`` has written down.

::

    python tests/kubernetes/faults_table.py build/faults.jsonl docs/faults.md
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import median
from typing import Any

HEAD = """# What happens when something goes wrong

`make faults` does each of these things to kernels on the real one-node cluster of the tests, at
random instants from a fixed seed, half of them in style `lease` where both styles are concerned.
The table says how often: a whole run of 20 rounds takes more than two hours. After every round
no pod, Secret, claim or lease of the kernels was left, and no GPU had given out more than it has; a
round in which that does not hold fails the run.

The instant is counted from the beginning of a start, so that a part of the faults meets a pod that
is being made and another part a kernel that runs. *Empty after* is the time from the end of the
kernels to an empty namespace.

A kubelet that dies in the moment when it makes a container can take that start with it: the user is
told that the node could not make the container, and the next start works.

The answer that is lost is that of each write in a kernel's life in turn: start, release, wake, two
changes of size, end, in both styles; after half of them nothing is answered for 6.5 s. Whenever a
kernel was told to be on a GPU, the cluster had given it its share.

The servers whose clocks are 90 s apart are processes of one name on hosts of their own. While both
live, each keeps the kernel that it runs and the one that waits for a GPU. When one is killed, of
two others, 90 s ahead and 90 s behind, one takes the kernel over, after as long as the Lease of the
dead one is valid (6 s) by its own monotonic clock.

Besides, it runs 1,000 random schedules of twelve steps on kernels of one machine, eight at a time
on GPUs for which they partly compete: cells of 1 ms to 3 s, alone and three at once, releases,
wakes, looks at what a release or a change of size would keep, changes of size, interrupts,
restarts, widgets, questions about the kernel, reloads and a second tab, kills of the kernel, and
stops of the server in good order; meanwhile unused shares go back after 4 s. 500 are for processes
that live on without their share, 500 for variables that are saved. In each, every cell was
answered, one that was answered with `ok` has run exactly once, one that only waited has not, none
has run twice, those of a tab ran in order, and no variable was lost but by a restart, a kill, or a
stop of the server while the kernel held its share. After each step, what was shown was so in the
ledger and among the processes of the machine; in the end nothing was left of either. 80 schedules
of eight steps on pods in style `lease`, with kills of the server, the agent and the pod, hold the
cells to the same.

At 200 random instants it kills the kernel while its variables are saved or brought back, the
process that reads them back, or the server, and starts the next server. Afterwards the variables
were there once and whole; or the share had not been given back, and whoever asked for that was
told: the kernel had died with what it had, or, with its server, a kernel that held its share. No
part of a file was left. And it draws 2,000 graphs of objects, which come back with the same
sharing.

| fault | rounds | instants | what the user is told | empty after (median, longest) |
|---|---|---|---|---|
"""


def main() -> int:
    """Read the rounds, write the table."""
    source, target = map(Path, sys.argv[1:])
    rounds = [json.loads(line) for line in source.read_text().splitlines()]
    faults: dict[str, list[dict[str, Any]]] = {}
    for row in rounds:
        faults.setdefault(row["fault"], []).append(row)
    lines = [_line(name, rows) for name, rows in faults.items()]
    target.write_text(HEAD + "\n".join(lines) + "\n")
    return 0


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    instants = [row["instant"] for row in rows if row["instant"] is not None]
    when = f"{min(instants):.2f} to {max(instants):.2f} s" if instants else "-"
    empty = [row["empty_after"] for row in rows]
    after = f"{median(empty):.1f} s, {max(empty):.1f} s"
    return f"| {name} | {len(rows)} | {when} | {_told(rows)} | {after} |"


def _told(rows: list[dict[str, Any]]) -> str:
    """Each text once, without what differs from round to round."""
    texts = {re.sub(r"gpu-share-[0-9a-f-]+|test-[0-9a-f]+", "…", row["told"]) for row in rows}
    shown = "<br>".join(sorted(text.replace("|", "\\|") for text in texts if text))
    return shown or f"({rows[0]['silent']})"


if __name__ == "__main__":
    sys.exit(main())
