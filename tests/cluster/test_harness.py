"""The parts of the harness that need no cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import ClusterError, _host, build, images, wait_for
from ._programs import Program

SLEEPER = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit("goodbye"))
print("hello", flush=True)
signal.pause()
"""
SLEEP = [sys.executable, "-c", SLEEPER]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program("sleeper", tmp_path)
    yield program
    program.kill()


def test_a_program_is_stopped_and_paused_by_whoever_knows_its_folder(
    program: Program, tmp_path: Path
) -> None:
    assert program.state == "stopped"
    program.start(SLEEP, {})
    program.wait_until(lambda: "hello" in program.log.read_text(), "says hello", 30)
    other = Program("sleeper", tmp_path)
    assert other.pid == program.pid
    with pytest.raises(ClusterError, match="runs already"):
        other.start(SLEEP, {})
    other.signal(signal.SIGSTOP)
    wait_for(lambda: program.state == "paused", "the sleeper is paused", 30)
    # A paused program ends too, and in an orderly way.
    other.stop()
    assert program.state == "stopped"
    assert "goodbye" in program.log.read_text()


def test_a_pid_that_belongs_to_another_process_now_is_left_alone(
    program: Program, tmp_path: Path
) -> None:
    stranger = Program("stranger", tmp_path)
    stranger.start(SLEEP, {})
    try:
        program.start(SLEEP, {})
        record = tmp_path / "programs" / "sleeper.json"
        original = json.loads(record.read_text())
        record.write_text(json.dumps({**original, "pid": stranger.pid, "start": "1"}))
        assert program.pid is None
        program.kill()
        assert stranger.state == "running"
        record.write_text(json.dumps(original))
        assert program.pid == original["pid"]
    finally:
        stranger.kill()


def test_a_program_that_ends_is_told_of_with_its_last_words(program: Program) -> None:
    program.start([sys.executable, "-c", "raise SystemExit('no such luck')"], {})
    with pytest.raises(ClusterError, match=r"(?s)sleeper ended by itself.*no such luck"):
        program.wait_until(lambda: False, "answers", 30)


def test_a_program_that_never_answers_is_told_of_too(program: Program) -> None:
    program.start(SLEEP, {})
    program.wait_until(lambda: "hello" in program.log.read_text(), "says hello", 30)
    with pytest.raises(ClusterError, match=r"(?s)answers: not within 0 s.*hello"):
        program.wait_until(lambda: False, "answers", 0.1)


def test_a_taken_port_is_named_with_its_user() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ClusterError, match=f"port {port} on loopback, which the oven needs"):
            _host.check_ports({port: "the oven"})
    _host.check_ports({port: "the oven"})


def test_one_sentence_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert build.why_not_here() is None
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "Go" in str(build.why_not_here())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in str(build.why_not_here())


def test_a_part_is_built_anew_when_what_goes_in_changes(tmp_path: Path) -> None:
    source = tmp_path / "main.go"
    source.write_text("one")

    def part(*inputs: str) -> build.Part:
        return build.Part("part", "a part", build.build_simdra, inputs, (source,))

    first = part("1.0")
    assert part("1.0").key == first.key
    assert part("1.1").key != first.key
    before = first.key
    source.write_text("two")
    assert part("1.0").key != before


def test_a_failed_build_leaves_nothing_and_quotes_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.cache_folder().mkdir(parents=True)

    def fails(shop: build.Workshop, out: Path) -> None:
        (out / "half").touch()
        shop.run("sh", "-c", "echo out of flour; exit 3")

    part = build.Part("cake", "a cake", fails, ())
    with pytest.raises(ClusterError, match=r"(?s)sh ended with 3.*out of flour"):
        build._build_part(part)
    assert [path.name for path in build.cache_folder().iterdir()] == ["build-cake.log"]


def test_an_image_holds_the_folder_and_its_name(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "hello").write_text("hi")
    images.pack(root, "localhost/some:1", {"User": "1000"}, tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        names = archive.getnames()
        index = archive.extractfile("index.json")
        assert index is not None
        assert b"localhost/some:1" in index.read()
        assert len([name for name in names if name.startswith("blobs/sha256/")]) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"root", "image.tar"}
