"""``jupyter gpu-share broker``: the program that owns the shares of all users."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from traitlets import TraitError
from traitlets.config import Config, Configurable
from traitlets.config.loader import PyFileConfigLoader

from .._text import one_line
from ..errors import EngineError

__all__ = ["CONFIGURATION", "of_cluster", "read_configuration", "serve"]

#: Read where no other file is named.
CONFIGURATION = Path("/etc/jupyter-gpu-share/broker_config.py")


async def serve(configuration: str | None, socket: str | None) -> int:
    """Run the broker until it is told to end.

    Raises
    ------
    GpuShareError: it cannot begin.
    """
    from ..broker.daemon import LocalBroker
    from ..idle import IdlePolicy

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    config = read_configuration(configuration)
    if _is_of_cluster(config):
        if socket:
            raise EngineError(
                "The broker of a cluster has no socket; leave out --socket, or say "
                'c.Broker.home = "machine".'
            )
        from ..broker.cluster.home import ClusterHome
        from ..broker.cluster.litter import seldom_looked_for
        from ..broker.cluster.program import ClusterBroker
        from ..engines.kubernetes import KubernetesEngine
        from ..size import SizePolicy

        _check_names(config, configuration, ClusterBroker, IdlePolicy, SizePolicy, KubernetesEngine)
        with _in_words(configuration):
            async with seldom_looked_for():
                await ClusterBroker(ClusterHome, config=config).run()
        return 0
    _check_names(config, configuration, LocalBroker, IdlePolicy)
    if socket:
        config.Broker.socket = socket
    with _in_words(configuration):
        await LocalBroker(config=config).run()
    return 0


def _check_names(config: Config, named: str | None, *kinds: type[Configurable]) -> None:
    """Refuse what nothing is called: a limit that is misspelt would not hold.

    Parameters
    ----------
    kinds: classes whose settings count for this broker.

    Raises
    ------
    EngineError
    """
    known: dict[str, set[str]] = defaultdict(set)
    for kind in kinds:
        for each in kind.section_names():
            known[each].update(kind.class_trait_names(config=True))
    for section, told in config.items():
        for name in told if isinstance(told, Config) else [""]:
            if name not in known.get(section, ()):
                settings = [f"c.{a}.{b}" for a, names in sorted(known.items()) for b in names]
                wrong = f"c.{section}.{name}".rstrip(".")
                close = get_close_matches(wrong, settings, 1)
                raise EngineError(
                    f"{wrong} in {named or CONFIGURATION} is no setting of this broker, and would "
                    f"change nothing. {f'Write {close[0]}' if close else 'Correct it'}, or take it "
                    "out."
                )


@contextmanager
def _in_words(named: str | None) -> Iterator[None]:
    """Tell which file has a setting that cannot be used: no other one counts for a broker."""
    try:
        yield
    except TraitError as error:
        raise EngineError(
            f"A setting in {named or CONFIGURATION} cannot be used: "
            f"{one_line(str(error)).rstrip('.')}. Correct that file."
        ) from error


def of_cluster(configuration: str | None) -> Config | None:
    """The configuration of a cluster's broker, if this is its pod, or it is named; else None.

    Raises
    ------
    EngineError: it cannot be read, or is not that of a cluster's broker.
    """
    if configuration is None:
        if not os.environ.get("KUBERNETES_SERVICE_HOST") or not CONFIGURATION.exists():
            return None
        config = read_configuration(None)
        return config if _is_of_cluster(config) else None
    config = read_configuration(configuration)
    if not _is_of_cluster(config):
        raise EngineError(
            f"{configuration} is not the configuration of a cluster's broker: c.Broker.home is "
            'not "cluster". Leave out --config to check this machine.'
        )
    return config


def _is_of_cluster(config: Config) -> bool:
    """Whether the broker owns the shares of a cluster; else those of this machine."""
    home = str(config.get("Broker", {}).get("home", "auto")).lower()
    if home != "auto":
        return home == "cluster"
    return all(os.environ.get(each) for each in ("KUBERNETES_SERVICE_HOST", "JUPYTERHUB_API_TOKEN"))


def read_configuration(named: str | None) -> Config:
    """What the administrator's file says.

    It is a program that runs with the broker's rights, so it has to be the broker's own, or root's.

    Raises
    ------
    EngineError: the file is not there, somebody else may write it, or it fails.
    """
    path = Path(named) if named else CONFIGURATION
    if not named and not os.path.lexists(path):
        return Config()
    try:
        for each in (path, path.resolve().parent):
            info = each.stat()
            if info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o022:
                raise EngineError(
                    f"{each} belongs to somebody else, or others may write it; the broker takes no "
                    f"configuration from there. Have root own it: chown root {each}; "
                    f"chmod go-w {each}"
                )
    except FileNotFoundError as error:  # also where a link leads nowhere: no limit would hold
        raise EngineError(f"There is no file {path}; name another after --config.") from error
    try:
        file = path.resolve()  # files beside it are found beside what a link leads to
        loader = PyFileConfigLoader(file.name, str(file.parent))
        config: Config = loader.load_config()
        return config
    except Exception as error:  # a file of Python may raise anything
        raise EngineError(
            f"The configuration {path} cannot be read: {type(error).__name__}: "
            f"{one_line(str(error))}. Correct that file."
        ) from error
