"""Arguments of the command, and what each subcommand does."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from traitlets.config import Config

from .._configuration import from_files
from .._version import __version__
from ..errors import GpuShareError

if TYPE_CHECKING:
    from ..runtime import Runtime

_DESCRIPTION = "Notebook kernels on a share of a GPU: see them, change them, set them up."
_RULES = ("adaptive", "fixed", "demand", "never")
_SIZES = "1/4, 0.25, 10GiB, mig-1g.10gb, 2x1/2, 1, or 0 for no GPU"

Command = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    0 done, 1 refused or failed, 2 wrong arguments, 3 a change was sent and it is not known whether
    it was made, 130 interrupted.

    Called by the executable ``jupyter-gpu-share``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["snapshot"]:
        from ._snapshot import snapshot

        return snapshot(words[1:])
    arguments = _parser().parse_args(words)
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
    finally:
        _end_runtime()


def _goes_on(error: GpuShareError) -> bool:
    """Whether what an error tells of may still be done."""
    from ._servers import GoesOn

    return isinstance(error, GoesOn)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jupyter gpu-share", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str, **options: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, **options)
        sub.set_defaults(command=run)
        return sub

    def add_json(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--json", action="store_true", help="print data as JSON")

    listing = add("list", _list, "Show the kernels on this machine's GPUs, and what is free.")
    add_json(listing)
    listing.add_argument("--watch", action="store_true", help="show again every second")

    add_json(add("sizes", _sizes, "Show the sizes that can be chosen, and which are free now."))
    add_json(add("doctor", _doctor, "Say what was found, what is enforced and what to fix."))

    install = add(
        "install",
        _install,
        "Write a kernelspec for each offered size: the way that works with every client.",
        epilog="Example: jupyter gpu-share install --user --size 1/4 --size 1",
    )
    install.add_argument("--kernel", default="python3", help="kernelspec to start from (python3)")
    install.add_argument(
        "--size", action="append", help=f"size to write one for, instead of all offered: {_SIZES}"
    )
    place = install.add_mutually_exclusive_group()
    place.add_argument("--user", action="store_true", help="for this user only")
    place.add_argument("--sys-prefix", action="store_true", help="in this Python's environment")
    place.add_argument("--prefix", help="in the environment at this path")
    install.add_argument("--remove", action="store_true", help="remove what install has written")
    add_json(install)

    resize = add(
        "resize",
        _resize,
        "Give a kernel another size. Its variables are saved and brought back.",
    )
    _add_kernel(resize)
    resize.add_argument("size", help=_SIZES)
    resize.add_argument("--restart", action="store_true", help="allow variables to be lost")
    add_json(resize)

    release = add("release", _release, "Give a kernel's share back; running a cell asks again.")
    _add_kernel(release)
    release.add_argument("--lose-variables", action="store_true", help="allow variables to be lost")
    add_json(release)

    wake = add("wake", _wake, "Ask for a kernel's share again, as running a cell does.")
    _add_kernel(wake)
    add_json(wake)

    kept = add("kept", _kept, "Show all that a kernel has lost, and what did not come back.")
    _add_kernel(kept)
    kept.add_argument(
        "--forget",
        action="store_true",
        help="remove the files that stay for another try",
    )
    add_json(kept)

    # It has arguments of its own, and never comes here.
    commands.add_parser("snapshot", help="Save the variables of a script, and bring them back.")

    keep = add("keep", _keep, "Keep a kernel's share for a time, even if unused.")
    _add_kernel(keep)
    keep.add_argument("minutes", type=_minutes, help="from now; 0 takes it back")
    add_json(keep)

    replay = add(
        "replay",
        _replay,
        "Say what an idle policy would have returned, and who would have waited, on a trace.",
        epilog="Example: jupyter gpu-share replay trace.csv.gz --rule fixed --timeout 300",
    )
    _add_replay(replay)
    add_json(replay)

    demo = add("demo", _demo, "Run a notebook on three kernels that share one GPU, and watch.")
    demo.add_argument("--output", help="folder for the notebooks that were run")
    demo.add_argument(
        "--engine",
        choices=["local", "kubernetes"],
        help="this machine, or the cluster that kubectl takes; as configured where not given",
    )
    demo.add_argument("--image", help="image of kernels in the cluster; it needs ipykernel 7.3")
    demo.add_argument("--namespace", help="of the cluster, instead of the credentials' own")
    return parser


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "trace", metavar="TRACE", help="CSV with submit_time, duration (minutes) and num_gpu"
    )
    parser.add_argument("--rule", choices=_RULES, help="instead of the configured one")
    parser.add_argument("--timeout", type=_seconds, help="seconds, of the rule fixed")
    parser.add_argument("--aim", type=_finite, help="of the rule adaptive, such as 0.06")
    parser.add_argument("--demand-after", type=_seconds, help="seconds, if somebody waits")
    parser.add_argument("--gpus", type=_count, help="let the sessions compete for so many GPUs")
    parser.add_argument(
        "--sizes", metavar="FILE", help="CSV with num_gpu and gpu_milli, to draw parts of GPUs from"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn (1)")
    parser.add_argument("--wake", type=_seconds, default=1.0, help="seconds that a wake takes (1)")
    parser.add_argument(
        "--curve", action="store_true", help="compare fixed, adaptive and perfect foresight"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the curves, as .svg or .png")


def _minutes(text: str) -> float:
    return _number(text, 0, 366 * 24 * 60, "number of minutes from 0 up to a year")


def _seconds(text: str) -> float:
    return _number(text, 0, 366 * 24 * 3600, "number of seconds from 0 up to a year")


def _finite(text: str) -> float:
    return _number(text, -sys.float_info.max, sys.float_info.max, "number")


def _number(text: str, least: float, most: float, what: str) -> float:
    with suppress(ValueError):
        value = float(text)
        if least <= value <= most:  # false for what is no number, too
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no {what}")


def _count(text: str) -> int:
    with suppress(ValueError):
        value = int(text)
        if 1 <= value <= 100_000:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 100000")


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kernel", help="the kernel's id or its first letters, or its notebook")


# -- commands --------------------------------------------------------------------------------


async def _list(arguments: argparse.Namespace) -> int:
    from ._listing import collect, draw

    while True:
        found = await collect(_runtime())
        if arguments.json:
            print(json.dumps(found.rows, indent=2))
            # A list that may lack kernels does not pass for a whole one.
            for note in found.notes:
                print(f"gpu-share: {note}", file=sys.stderr)
        else:
            if arguments.watch:
                print("\x1b[H\x1b[2J", end="")
            print(draw(found))
        if not arguments.watch:
            return 0
        await asyncio.sleep(1.0)


async def _sizes(arguments: argparse.Namespace) -> int:
    from ._tables import table

    rows = [
        {**offer.to_json(), "available": why is None, "why": why}
        for offer, why in await _runtime().offers()
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    lines = [
        [
            row["size"] + (" (default)" if row["default"] else ""),
            row["name"],
            row["description"],
            "yes" if row["available"] else f"no: {row['why']}",
        ]
        for row in rows
    ]
    print(table(["SIZE", "NAME", "FOR", "FREE NOW"], lines))
    return 0


async def _doctor(arguments: argparse.Namespace) -> int:
    from ._examine import examine

    findings = [*await _runtime().diagnose(), *examine()]
    if arguments.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        marks = {
            "ok": "✓ ok     ",
            "note": "· note   ",
            "warning": "! warning",
            "error": "✗ error  ",
        }
        for finding in findings:
            print(f"{marks[finding.level]}  {finding.what}")
            if finding.fix:
                print(f"             → {finding.fix}")
    return 1 if any(finding.level == "error" for finding in findings) else 0


async def _install(arguments: argparse.Namespace) -> int:
    from ..size import SizePolicy
    from ._kernelspecs import install, installed, remove

    policy = SizePolicy(config=from_files())
    if arguments.remove:
        done = remove()
    else:
        sizes = [policy.check(text) for text in arguments.size or ()]
        prefix = sys.prefix if arguments.sys_prefix else arguments.prefix
        offers = [offer.size for offer in policy.offers()]
        done = install(sizes or offers, kernel=arguments.kernel, user=arguments.user, prefix=prefix)
    if arguments.json:
        print(json.dumps({"changed": done, "installed": installed()}, indent=2))
        return 0
    verb = "Removed" if arguments.remove else "Wrote"
    for name in done:
        print(f"{verb} kernelspec {name}")
    if not done:
        print("There was none to remove." if arguments.remove else "Nothing was written.")
    elif not arguments.remove:
        print(f"Choose it in JupyterLab, or try: jupyter console --kernel {done[0]}")
    return 0


async def _resize(arguments: argparse.Namespace) -> int:
    from ..size import SizePolicy

    size = SizePolicy(config=from_files()).check(arguments.size)
    change = {"size": str(size), "restart": arguments.restart}
    look = {"size": str(size), "dry_run": True}
    return await _change(arguments, "PATCH", "", change, f"Changing to {size}", look)


async def _release(arguments: argparse.Namespace) -> int:
    allowed = {"lose_variables": arguments.lose_variables}
    look = {"dry_run": True}
    return await _change(arguments, "POST", "/release", allowed, "Giving back", look)


async def _wake(arguments: argparse.Namespace) -> int:
    return await _change(arguments, "POST", "/wake", {}, "Asking for the share")


async def _kept(arguments: argparse.Namespace) -> int:
    from ._servers import aside, ask, change, find_kernel
    from ._tables import kept_report

    server, row = await aside(find_kernel, arguments.kernel)
    url = f"gpu-share/allocations/{row['kernel_id']}/kept"
    if arguments.forget:
        found = await aside(change, server, "DELETE", url, None)
    else:
        found = await aside(ask, server, "GET", url)
    print(json.dumps(found, indent=2) if arguments.json else kept_report(found))
    return 0


async def _keep(arguments: argparse.Namespace) -> int:
    from datetime import datetime, timedelta, timezone

    from ..allocations import timestamp

    until = None
    if arguments.minutes > 0:
        until = timestamp(datetime.now(timezone.utc) + timedelta(minutes=arguments.minutes))
    return await _change(arguments, "PATCH", "", {"keep_until": until}, "Keeping")


async def _change(
    arguments: argparse.Namespace,
    method: str,
    path: str,
    body: dict[str, Any],
    doing: str,
    look: dict[str, Any] | None = None,
) -> int:
    """Ask the kernel's server for a change; with ``look`` first what it keeps, which is said."""
    from ._servers import aside, ask, change, find_kernel
    from ._tables import kept, progress, sentence

    server, row = await aside(find_kernel, arguments.kernel)
    with progress(f"{doing}: {row['path'] or row['kernel_id'][:8]}"):
        url = f"gpu-share/allocations/{row['kernel_id']}{path}"
        if look is not None and row["state"] != "queued":
            found = await aside(ask, server, method, url, look)
            print(kept(found["kept"]), file=sys.stderr)
        try:
            row = await aside(change, server, method, url, body)
        except asyncio.CancelledError:
            print("gpu-share: the change that was sent goes on in the server", file=sys.stderr)
            raise
    print(json.dumps(row, indent=2) if arguments.json else sentence(row))
    return 0


async def _replay(arguments: argparse.Namespace) -> int:
    from ._replay import replay_trace

    data, text = replay_trace(arguments, from_files())
    print(json.dumps(data, indent=2) if arguments.json else text)
    return 0


async def _demo(arguments: argparse.Namespace) -> int:
    from ._demo import demo

    def config() -> Config:
        found = from_files()
        if arguments.engine:
            found.GpuShareProvisioner.engine = arguments.engine
        for name in ("image", "namespace"):
            if value := getattr(arguments, name):
                found.KubernetesEngine[name] = value
        return found

    return await demo(arguments.output, config)


# -- what is asked ---------------------------------------------------------------------------


def _runtime() -> Runtime:
    from ..runtime import Runtime

    return Runtime.instance(from_files())


def _end_runtime() -> None:
    module = sys.modules.get("jupyter_gpu_share.runtime")
    if module is not None:
        module.Runtime.clear_instance()
