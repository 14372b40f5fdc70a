"""The command's help: sentences, and one name for one thing."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import pytest

from jupyter_gpu_share.cli import main
from jupyter_gpu_share.cli._parser import make_parser


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The command itself and each of its commands, by name."""
    parser = make_parser()
    yield "", parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


PARSERS = dict(parsers())


@pytest.mark.parametrize("name", PARSERS)
def test_every_help_is_a_sentence(name: str) -> None:
    parser = PARSERS[name]
    options = [a for a in parser._actions if not isinstance(a, argparse._SubParsersAction)]
    for text in [parser.description or "", *(option.help or "" for option in options)]:
        assert text[:1].isupper(), text
        assert text.endswith("."), text
        assert len(text.split()) > 2, text


def test_an_option_has_one_name_and_a_name_one_meaning() -> None:
    names: dict[str, set[str]] = defaultdict(set)
    kinds: dict[str, set[str]] = defaultdict(set)
    for parser in PARSERS.values():
        for action in parser._actions:
            for name in action.option_strings:
                if name.startswith("--"):
                    names[action.dest].add(name)
                    kinds[name].add(type(action).__name__)
    assert {dest: found for dest, found in names.items() if len(found) > 1} == {}
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_consent_to_lose_variables_has_the_same_name_everywhere() -> None:
    for name in ("resize", "release"):
        assert "--lose-variables" in PARSERS[name].format_help()
    words = {
        word for parser in PARSERS.values() for a in parser._actions for word in a.option_strings
    }
    assert not words & {"--restart", "--force"}


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "doctor" in capsys.readouterr().err
