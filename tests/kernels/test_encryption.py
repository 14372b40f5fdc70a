"""Saved variables on the disk, encrypted: what was changed in any way is found."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from jupyter_gpu_share.engines._processes import Holder, this_process
from jupyter_gpu_share.kernels import _encryption
from jupyter_gpu_share.kernels._encryption import (
    Encrypted,
    NotEncryptedError,
    decrypted,
    is_encrypted,
    make_workplace,
    missing,
)
from jupyter_gpu_share.kernels._private import UnsafeFileError

pytestmark = pytest.mark.usefixtures("jupyter_dirs")

CHUNK = 1000
HEAD = len(b"gpu-share encrypted 1\n") + 16


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 1000 bytes."""
    monkeypatch.setattr(_encryption, "_CHUNK", CHUNK)


@pytest.fixture
def library() -> None:
    pytest.importorskip("cryptography", reason="it is an extra: jupyter-gpu-share[encryption]")


def encrypt(content: bytes, kernel_id: str = "k") -> bytes:
    file = io.BytesIO()
    sink = Encrypted(file, kernel_id)
    for start in range(0, len(content), 700):
        sink.write(content[start : start + 700])
    sink.close()
    return file.getvalue()


def decrypt(data: bytes, kernel_id: str = "k") -> bytes:
    file = io.BytesIO(data)
    assert is_encrypted(file)
    return b"".join(decrypted(file, kernel_id))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 3500])
def test_what_was_encrypted_is_there_again(size: int) -> None:
    content = os.urandom(size)
    data = encrypt(content)
    assert decrypt(data) == content
    if len(content) > 8:  # fewer bytes may stand there by chance
        assert content not in data
    assert encrypt(content) != data, "no two files have one key"


@pytest.mark.usefixtures("library")
def test_what_was_changed_is_found() -> None:
    data = encrypt(bytes(3500))
    each = CHUNK + 16
    chunks = [data[at : at + each] for at in range(HEAD, len(data), each)]
    other = encrypt(bytes(3500))
    head = data[:HEAD]
    for changed in (
        *(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(HEAD - 16, len(data))),
        *(data[:at] for at in (HEAD, HEAD + 5, HEAD + each, HEAD + 2 * each, len(data) - 1)),
        data + b"x",
        head + chunks[1] + chunks[0] + b"".join(chunks[2:]),
        head + b"".join(chunks[1:]),
        head + chunks[0] + b"".join(chunks),
        other[:HEAD] + data[HEAD:],
        data[: HEAD + each] + other[HEAD + each :],
    ):
        with pytest.raises(NotEncryptedError, match="was changed or cut off"):
            decrypt(changed)


@pytest.mark.usefixtures("library")
def test_it_is_of_one_kernel_and_one_user() -> None:
    data = encrypt(b"variables")
    with pytest.raises(NotEncryptedError):
        decrypt(data, "another")
    (Path(os.environ["JUPYTER_DATA_DIR"]) / "gpu-share" / "key").write_bytes(bytes(32))
    with pytest.raises(NotEncryptedError):
        decrypt(data)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert missing().endswith("pip install 'jupyter-gpu-share[encryption]'.")
    monkeypatch.setattr(_encryption, "_library", lambda: None)
    assert missing() == ""
    monkeypatch.setattr(_encryption, "_MEMORY", tmp_path / "nowhere")
    assert "which this system lacks" in missing()


def test_the_place_in_memory_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And of a server that was killed nothing stays there."""
    monkeypatch.setattr(_encryption, "_MEMORY", tmp_path)
    base = tmp_path / f"gpu-share-{os.getuid()}"
    base.mkdir(mode=0o700)
    (base / Holder(2**30, "1").folder).mkdir()
    folder = make_workplace()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert base in folder.parents
    assert [path.name for path in base.iterdir()] == [this_process().folder]
    base.chmod(0o755)
    with pytest.raises(UnsafeFileError, match="is open to others"):
        make_workplace()
