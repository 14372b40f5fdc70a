"""Arguments of the command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from .._version import __version__
from . import _commands as commands

__all__ = ["Command", "make_parser"]

_DESCRIPTION = "Give notebook kernels a share of a GPU: see the shares, change them, set them up."
_RULES = ("adaptive", "fixed", "demand", "never")
_SIZES = "1/4, 0.25, 10GiB, mig-1g.10gb, 2x1/2, 1, or 0 for no GPU"

Command = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


class _Parser(argparse.ArgumentParser):
    """Has a help for each argument that is a sentence, its own included."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, add_help=False)
        self.add_argument("-h", "--help", action="help", help="Show this help.")


def make_parser() -> argparse.ArgumentParser:
    """The parser; what it finds has the ``command`` to run."""
    parser = _Parser(prog="jupyter gpu-share", description=_DESCRIPTION)
    parser.add_argument(
        "--version", action="version", version=__version__, help="Show the version."
    )
    parser.add_argument(
        "--debug", action="store_true", help="Show where an unexpected error comes from."
    )
    subs = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str, **options: Any) -> argparse.ArgumentParser:
        sub = subs.add_parser(name, help=text, description=text, **options)
        sub.set_defaults(command=run)
        return sub

    def add_json(sub: argparse._ActionsContainer) -> None:
        sub.add_argument("--json", action="store_true", help="Print the data as JSON.")

    listing = add(
        "list", commands.run_list, "Show the kernels on this machine's GPUs, and what is free."
    )
    add_json(listing)
    listing.add_argument(
        "--all",
        action="store_true",
        help="Show those of all users, as the machine's broker knows them. For administrators.",
    )
    listing.add_argument("--watch", action="store_true", help="Show it again every second.")

    add_json(
        add(
            "sizes", commands.run_sizes, "Show the sizes that you can choose, and what is free now."
        )
    )
    doctor = add(
        "doctor",
        commands.run_doctor,
        "Check the installation, and say what to do about each problem.",
    )
    doctor.add_argument(
        "--config",
        metavar="FILE",
        help="Check what a cluster's broker with this configuration needs, instead of this "
        "machine. In the broker's pod it is found.",
    )
    add_json(doctor)

    install = add(
        "install",
        commands.run_install,
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
        commands.run_resize,
        "Change the size of a kernel. Its variables are kept, or you are told what would be lost.",
    )
    _add_kernel(resize)
    resize.add_argument("size", metavar="SIZE", help=f"The new size: {_SIZES}.")
    _add_lose(resize)
    add_json(resize)

    release = add(
        "release",
        commands.run_release,
        "Give a kernel's share back. Running a cell takes a share again.",
    )
    _add_kernel(release)
    _add_lose(release)
    add_json(release)

    wake = add(
        "wake", commands.run_wake, "Take a share for a kernel again, as running a cell does."
    )
    _add_kernel(wake)
    add_json(wake)

    kept = add(
        "kept", commands.run_kept, "Show what a kernel has lost, and what was not brought back."
    )
    _add_kernel(kept)
    kept.add_argument(
        "--forget", action="store_true", help="Remove the files that were not brought back whole."
    )
    add_json(kept)

    # It has arguments of its own, and never comes here.
    text = "Save the variables of a script, and bring them back."
    subs.add_parser("snapshot", help=text, description=text)

    keep = add(
        "keep", commands.run_keep, "Keep a kernel's share for some minutes, even if nobody uses it."
    )
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
        commands.run_replay,
        "Try an idle rule on recorded GPU use: how much goes back, and who has to wait.",
        epilog="Example: jupyter gpu-share replay trace.csv.gz --rule fixed --timeout 300",
    )
    _add_replay(replay)
    add_json(replay)

    usage = add(
        "usage",
        commands.run_usage,
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
        commands.run_broker,
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
        commands.run_page,
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

    demo = add(
        "demo", commands.run_demo, "Run a notebook on three kernels that share one GPU, and watch."
    )
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
