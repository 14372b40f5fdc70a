"""What each subcommand does: it takes its arguments, and gives the exit code.

Each imports what it needs by itself, so that the command starts fast.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from traitlets.config import Config

from .._configuration import from_files
from ..errors import GpuShareError

if TYPE_CHECKING:
    from ..engines.base import Capacity
    from ..runtime import Runtime


async def run_list(arguments: argparse.Namespace) -> int:
    """Show the kernels on the GPUs."""
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


async def run_sizes(arguments: argparse.Namespace) -> int:
    """Show the sizes."""
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


async def run_doctor(arguments: argparse.Namespace) -> int:
    """Check the installation, or what a cluster's broker needs."""
    from ._broker import of_cluster
    from ._tables import findings_text

    if (config := of_cluster(arguments.config)) is not None:
        from ..broker.cluster.doctor import examine as examine_broker

        findings = await examine_broker(config)
    else:
        from ._examine import examine

        findings = [finding async for finding in examine(_runtime())]
    if arguments.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        print(findings_text(findings))
    return 1 if any(finding.level == "error" for finding in findings) else 0


async def run_install(arguments: argparse.Namespace) -> int:
    """Add kernelspecs, or remove them."""
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


async def run_resize(arguments: argparse.Namespace) -> int:
    """Change a kernel's size."""
    from ..size import SizePolicy

    size = SizePolicy(config=from_files()).check(arguments.size)
    change = {"size": str(size), "lose_variables": arguments.lose_variables}
    look = {"size": str(size), "dry_run": True}
    return await _change(arguments, "PATCH", "", change, f"Changing to {size}", look)


async def run_release(arguments: argparse.Namespace) -> int:
    """Give a kernel's share back."""
    allowed = {"lose_variables": arguments.lose_variables}
    look = {"dry_run": True}
    return await _change(arguments, "POST", "/release", allowed, "Giving back", look)


async def run_wake(arguments: argparse.Namespace) -> int:
    """Ask for a share again."""
    return await _change(arguments, "POST", "/wake", {}, "Asking for the share")


async def run_kept(arguments: argparse.Namespace) -> int:
    """Show what a kernel lost, and what is kept of it."""
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


async def run_keep(arguments: argparse.Namespace) -> int:
    """Keep an unused share for a while."""
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


async def run_replay(arguments: argparse.Namespace) -> int:
    """Try idle rules on a trace."""
    from ._replay import replay_trace

    data, text = replay_trace(arguments, from_files())
    print(json.dumps(data, indent=2) if arguments.json else text)
    return 0


async def run_usage(arguments: argparse.Namespace) -> int:
    """Show GPU-hours."""
    from ._usage import collect, in_csv, in_table

    rows = await collect(everybody=arguments.all)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print(in_csv(rows) if arguments.csv else in_table(rows), end="")
    return 0


async def run_broker(arguments: argparse.Namespace) -> int:
    """Run the broker of this machine."""
    from ._broker import serve

    return await serve(arguments.config, arguments.socket)


async def run_page(arguments: argparse.Namespace) -> int:
    """Show the broker's page."""
    from ._page import serve_hub, show_page

    if arguments.hub:
        return await serve_hub(arguments.account)
    return await show_page(arguments.port)


async def run_demo(arguments: argparse.Namespace) -> int:
    """Run a notebook on kernels that share a GPU."""
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


def _runtime() -> Runtime:
    from ..runtime import Runtime

    return Runtime.instance(from_files())


def end_runtime() -> None:
    """End what a command has begun."""
    module = sys.modules.get("jupyter_gpu_share.runtime")
    if module is not None:
        module.Runtime.clear_instance()
