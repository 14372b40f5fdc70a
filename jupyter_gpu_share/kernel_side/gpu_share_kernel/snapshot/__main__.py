"""``python -m gpu_share_kernel.snapshot``: see :mod:`gpu_share_kernel.snapshot.command`."""

import sys

from gpu_share_kernel.snapshot import command

if __name__ == "__main__":
    sys.exit(command.main(sys.argv[1:]))
