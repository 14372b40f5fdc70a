"""Arguments of the command, and what each subcommand does."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from traitlets.config import Config

from .._configuration import from_files
from .._version import __version__
from ..errors import GpuShareError
from ._unexpected import in_a_line

if TYPE_CHECKING:
    from ..engines.base import Capacity
    from ..runtime import Runtime

_DESCRIPTION = "Give notebook kernels a share of a GPU: see the shares, change them, set them up."
_RULES = ("adaptive", "fixed", "demand", "never")
_SIZES = "1/4, 0.25, 10GiB, mig-1g.10gb, 2x1/2, 1, or 0 for no GPU"

Command = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    0 done, 1 refused or failed, 2 wrong arguments, 3 a change was sent and it is not known whether
    it was made, 130 interrupted.

    Called by the executable ``jupyter-gpu-share``.
    """
    _print_anything()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        _parser().print_help(sys.stderr)
        return 2
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
    except Exception as error:
        if arguments.debug:
            raise
        print(f"gpu-share: {in_a_line(error)}", file=sys.stderr)
        return 1
    finally:
        _end_runtime()


def _print_anything() -> None:
    """Have what a terminal or a file cannot show replaced, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _goes_on(error: GpuShareError) -> bool:
    """Whether what an error tells of may still be done."""
    from ._servers import GoesOn

    return isinstance(error, GoesOn)


class _Parser(argparse.ArgumentParser):
    """Has a help for each argument that is a sentence, its own included."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, add_help=False)
        self.add_argument("-h", "--help", action="help", help="Show this help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jupyter gpu-share", description=_DESCRIPTION)
    parser.add_argument(
        "--version", action="version", version=__version__, help="Show the version."
    )
    parser.add_argument(
        "--debug", action="store_true", help="Show where an unexpected error comes from."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str, **options: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, **options)
        sub.set_defaults(command=run)
        return sub

    def add_json(sub: argparse._ActionsContainer) -> None:
        sub.add_argument("--json", action="store_true", help="Print the data as JSON.")

    listing = add("list", _list, "Show the kernels on this machine's GPUs, and what is free.")
    add_json(listing)
    listing.add_argument(
        "--all",
        action="store_true",
        help="Show those of all users, as the machine's broker knows them. For administrators.",
    )
    listing.add_argument("--watch", action="store_true", help="Show it again every second.")

    add_json(add("sizes", _sizes, "Show the sizes that you can choose, and what is free now."))
    add_json(
        add("doctor", _doctor, "Check the installation, and say what to do about each problem.")
    )

    install = add(
        "install",
        _install,
        "Add a kernelspec for each offered size, for clients that have no other way to choose one.",
        epilog="Example: jupyter gpu-share install --user --size 1/4 --size 1",
    )
    install.add_argument(
        "--kernel",
        metavar="NAME",
        default="python3",
        help="The kernelspec that is copied. Default: python3.",
    )
    install.add_argument(
        "--size",
        action="append",
        help=f"Add a kernelspec for this size only. Can be repeated. A size is {_SIZES}.",
    )
    place = install.add_mutually_exclusive_group()
    place.add_argument("--user", action="store_true", help="Write for this user only.")
    place.add_argument(
        "--sys-prefix", action="store_true", help="Write into the environment of this Python."
    )
    place.add_argument("--prefix", metavar="FOLDER", help="Write into this environment.")
    install.add_argument(
        "--remove", action="store_true", help="Remove the kernelspecs that this command has added."
    )
    add_json(install)

    resize = add(
        "resize",
        _resize,
        "Change the size of a kernel. Its variables are kept, or you are told what would be lost.",
    )
    _add_kernel(resize)
    resize.add_argument("size", metavar="SIZE", help=f"The new size: {_SIZES}.")
    _add_lose(resize)
    add_json(resize)

    release = add(
        "release", _release, "Give a kernel's share back. Running a cell takes a share again."
    )
    _add_kernel(release)
    _add_lose(release)
    add_json(release)

    wake = add("wake", _wake, "Take a share for a kernel again, as running a cell does.")
    _add_kernel(wake)
    add_json(wake)

    kept = add("kept", _kept, "Show what a kernel has lost, and what was not brought back.")
    _add_kernel(kept)
    kept.add_argument(
        "--forget", action="store_true", help="Remove the files that were not brought back whole."
    )
    add_json(kept)

    # It has arguments of its own, and never comes here.
    text = "Save the variables of a script, and bring them back."
    commands.add_parser("snapshot", help=text, description=text)

    keep = add("keep", _keep, "Keep a kernel's share for some minutes, even if nobody uses it.")
    _add_kernel(keep)
    keep.add_argument(
        "minutes",
        metavar="MINUTES",
        type=_minutes,
        help="The number of minutes from now. 0 ends the keeping.",
    )
    add_json(keep)

    replay = add(
        "replay",
        _replay,
        "Try an idle rule on recorded GPU use: how much goes back, and who has to wait.",
        epilog="Example: jupyter gpu-share replay trace.csv.gz --rule fixed --timeout 300",
    )
    _add_replay(replay)
    add_json(replay)

    usage = add(
        "usage",
        _usage,
        "Show the GPU-hours that you have held, by day, as the machine's broker counts them.",
    )
    usage.add_argument(
        "--all", action="store_true", help="Of all users and groups. For administrators."
    )
    form = usage.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument(
        "--csv", action="store_true", help="Print GPU-seconds with commas between them."
    )

    broker = add(
        "broker",
        _broker,
        "Run the program that owns the GPU shares of all users of this machine.",
        epilog="Example: sudo jupyter gpu-share broker",
    )
    broker.add_argument(
        "--config",
        metavar="FILE",
        help="The administrator's file. Default: /etc/jupyter-gpu-share/broker_config.py.",
    )
    broker.add_argument(
        "--socket", metavar="PATH", help="The path of the socket that users' servers connect to."
    )

    page = add(
        "page",
        _page,
        "Show who holds GPU shares in a browser: administrators see all users, others their own.",
    )
    page.add_argument(
        "--port",
        type=_port,
        default=0,
        metavar="NUMBER",
        help="The port of 127.0.0.1 to use. Default: any that is free.",
    )
    page.add_argument(
        "--hub", action="store_true", help="Be a service of the JupyterHub that starts this."
    )
    page.add_argument(
        "--account",
        default="{name}",
        metavar="PATTERN",
        help="With --hub: the name on this machine of the Hub's user {name}, like jupyter-{name}.",
    )

    demo = add("demo", _demo, "Run a notebook on three kernels that share one GPU, and watch.")
    demo.add_argument(
        "--output", metavar="FOLDER", help="Write the notebooks, as they ran, into this folder."
    )
    demo.add_argument(
        "--engine",
        choices=["local", "kubernetes"],
        help="Run on this machine, or in the cluster that kubectl takes. Default: as configured.",
    )
    demo.add_argument("--image", help="The kernels' image in the cluster. It needs ipykernel 7.3.")
    demo.add_argument(
        "--namespace", help="The namespace in the cluster. Default: that of the credentials."
    )
    demo.add_argument(
        "--users",
        metavar="NUMBER",
        type=_users,
        help="Show a broker and so many users, 3 to 8, on a simulated GPU instead. Needs root.",
    )
    return parser


def _add_replay(parser: argparse.ArgumentParser) -> None:
    def add(name: str, text: str, **options: Any) -> None:
        parser.add_argument(name, help=text, **options)

    add(
        "trace",
        "A CSV file with the columns submit_time and duration (in minutes) and num_gpu.",
        metavar="TRACE",
    )
    add("--rule", "Use this rule instead of the configured one.", choices=_RULES)
    add(
        "--timeout",
        "With the rule fixed: the seconds without use after which a share goes back.",
        metavar="SECONDS",
        type=_seconds,
    )
    add(
        "--aim",
        "With the rule adaptive: the part of the bursts of work that may wait, such as 0.06.",
        metavar="PART",
        type=_finite,
    )
    add(
        "--demand-after",
        "The seconds without use after which a share goes back if somebody waits.",
        metavar="SECONDS",
        type=_seconds,
    )
    add(
        "--gpus",
        "The number of GPUs that all sessions share. Without it each session has its own.",
        metavar="NUMBER",
        type=_count,
    )
    add(
        "--sizes",
        "A CSV file with the columns num_gpu and gpu_milli. Each session gets a size from it.",
        metavar="FILE",
    )
    add(
        "--seed",
        "The seed of the random choice of sizes. Default: 1.",
        metavar="NUMBER",
        type=int,
        default=1,
    )
    add(
        "--wake",
        "The seconds that a wake takes. Default: 1.",
        metavar="SECONDS",
        type=_seconds,
        default=1.0,
    )
    add(
        "--curve",
        "Compare the rules fixed and adaptive, and the best possible.",
        action="store_true",
    )
    add("--plot", "Draw the comparison into this file, .svg or .png.", metavar="FILE")


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


def _port(text: str) -> int:
    return int(_number(text, 0, 65535, "port"))


def _users(text: str) -> int:
    return int(_number(text, 3, 8, "number of users from 3 to 8"))


def _count(text: str) -> int:
    with suppress(ValueError):
        value = int(text)
        if 1 <= value <= 100_000:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 100000")


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kernel",
        metavar="KERNEL",
        help="The kernel: its id, the first letters of that, or its notebook.",
    )


def _add_lose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lose-variables", action="store_true", help="Do it even if variables are lost."
    )


# -- commands --------------------------------------------------------------------------------


async def _list(arguments: argparse.Namespace) -> int:
    from ._listing import collect, collect_all, draw

    while True:
        found = await (collect_all() if arguments.all else collect(_runtime()))
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
    from ._tables import sizes_table

    runtime = _runtime()
    rows = [
        {**offer.to_json(), "available": why is None, "why": why}
        for offer, why in await runtime.offers()
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    gpus: list[Capacity] = []
    with suppress(GpuShareError):  # the rows say why
        gpus = await runtime.capacity()
    print(sizes_table(rows, gpus))
    return 0


async def _doctor(arguments: argparse.Namespace) -> int:
    from ._examine import examine
    from ._tables import findings_text

    findings = [finding async for finding in examine(_runtime())]
    if arguments.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        print(findings_text(findings))
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
    verb = "Removed" if arguments.remove else "Added"
    for name in done:
        print(f"{verb} the kernelspec {name}")
    if arguments.remove and not done:
        print("There was no kernelspec to remove.")
    if done and not arguments.remove:
        print(
            "Choose one in JupyterLab's launcher, or run a notebook with it: "
            f"jupyter execute --kernel_name={done[0]} NOTEBOOK"
        )
    return 0


async def _resize(arguments: argparse.Namespace) -> int:
    from ..size import SizePolicy

    size = SizePolicy(config=from_files()).check(arguments.size)
    change = {"size": str(size), "lose_variables": arguments.lose_variables}
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


async def _usage(arguments: argparse.Namespace) -> int:
    from ._usage import collect, in_csv, in_table

    rows = await collect(everybody=arguments.all)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print(in_csv(rows) if arguments.csv else in_table(rows), end="")
    return 0


async def _broker(arguments: argparse.Namespace) -> int:
    from ._broker import serve

    return await serve(arguments.config, arguments.socket)


async def _page(arguments: argparse.Namespace) -> int:
    from ._page import serve_hub, show_page

    if arguments.hub:
        return await serve_hub(arguments.account)
    return await show_page(arguments.port)


async def _demo(arguments: argparse.Namespace) -> int:
    if arguments.users:
        from ._demo_users import demo_users

        if arguments.output or arguments.engine or arguments.image or arguments.namespace:
            raise GpuShareError(
                "--users has a machine of its own made up and writes no notebooks; leave out the "
                "other options."
            )
        return await demo_users(arguments.users)
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
