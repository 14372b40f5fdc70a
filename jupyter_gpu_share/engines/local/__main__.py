"""``python -m jupyter_gpu_share.engines.local LEDGER TOKEN`` frees a share by hand.

For claims of containers and machines of which nobody else can tell whether they are gone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import LedgerError
from ._ledger import Ledger


def main(arguments: Sequence[str] | None = None) -> int:
    """Free one claim; 0 where it was there, else 1 with a line that says why."""
    parser = argparse.ArgumentParser(
        prog="python -m jupyter_gpu_share.engines.local",
        description="Free the share of a kernel that is known to have ended. "
        "`jupyter gpu-share doctor` names the ledger and the claim.",
    )
    parser.add_argument("ledger", type=Path, help="path of the ledger")
    parser.add_argument("token", help="name of the claim")
    asked = parser.parse_args(arguments)
    try:
        if not asked.ledger.exists():
            raise LedgerError(f"There is no ledger {asked.ledger}.")
        ledger = Ledger(asked.ledger)
        try:
            claim = next((each for each in ledger.claims() if each.token == asked.token), None)
            if claim is None:
                raise LedgerError(f"There is no claim {asked.token} in {asked.ledger}.")
            if not claim.unknown:
                raise LedgerError(
                    f"The claim of kernel {claim.kernel_id} is of this machine: it is freed by "
                    "itself when its processes have ended. `jupyter gpu-share release` gives a "
                    "share back."
                )
            ledger.release(claim.kernel_id)
        finally:
            ledger.close()
    except LedgerError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The share of kernel {claim.kernel_id} ({claim.size}) is free.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
