"""The command's entry: it runs a subcommand, and tells errors in one line."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Sequence

from ..errors import GpuShareError
from ._commands import end_runtime
from ._parser import Command, make_parser
from ._unexpected import in_a_line

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    0 done, 1 refused or failed, 2 wrong arguments, 3 a change was sent and it is not known whether
    it was made, 130 interrupted.

    Called by the executable ``jupyter-gpu-share``.
    """
    _print_anything()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        make_parser().print_help(sys.stderr)
        return 2
    if words[:1] == ["snapshot"]:
        from ._snapshot import snapshot

        return snapshot(words[1:])
    arguments = make_parser().parse_args(words)
    command: Command = arguments.command
    try:
        return asyncio.run(command(arguments))
    except GpuShareError as error:
        print(f"gpu-share: {error}", file=sys.stderr)
        return 3 if _goes_on(error) else 1
    except KeyboardInterrupt:
        print("gpu-share: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as `head` does
        return 0
    except Exception as error:
        if arguments.debug:
            raise
        print(f"gpu-share: {in_a_line(error)}", file=sys.stderr)
        return 1
    finally:
        end_runtime()


def _print_anything() -> None:
    """Have what a terminal or a file cannot show replaced, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _goes_on(error: GpuShareError) -> bool:
    """Whether what an error tells of may still be done."""
    from ._servers import GoesOn

    return isinstance(error, GoesOn)
