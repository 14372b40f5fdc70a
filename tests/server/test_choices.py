"""The size that is chosen for a notebook is the one that its kernels start with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import nbformat
import pytest
from servers import Server, run_server, stop_server, until

NOTEBOOK = nbformat.writes(nbformat.v4.new_notebook())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one simulated GPU, which leaves nothing in the trash of whoever runs tests."""
    found = run_server(
        tmp_path_factory.mktemp("server"),
        "--GpuShareProvisioner.queue_patience=1.5",
        "--FileContentsManager.delete_to_trash=False",
    )
    yield found
    stop_server(found)


@pytest.fixture
def tidy(clean: Server) -> Iterator[Server]:
    """The server, with no notebooks, and no choices for them, before and after the test."""
    yield clean
    for path in sorted(clean.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    data = clean.folder.parent / "data"
    for folder in (data / "gpu-share" / "sizes", data / "kernels"):
        shutil.rmtree(folder, ignore_errors=True)


def write(server: Server, path: str, **metadata: Any) -> str:
    text = json.loads(NOTEBOOK)
    text["metadata"] = metadata
    (server.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (server.folder / path).write_text(json.dumps(text))
    return path


def choose(server: Server, path: str, size: str | None) -> Any:
    return server.ok("gpu-share/choices", "PUT", {"path": path, "size": size})


def chosen(server: Server, path: str) -> str | None:
    found: str | None = server.ok(f"gpu-share/choices?path={path}")["size"]
    return found


def start(server: Server, path: str, kind: str = "notebook") -> tuple[int, Any]:
    """Start a session as JupyterLab does: under a path that is made up, by its name."""
    folder, _, name = path.rpartition("/")
    body = {"path": f"{folder}/made-up", "name": name, "type": kind, "kernel": {"name": "python3"}}
    return server.fetch("api/sessions", "POST", body)


def size_of(server: Server, session: Any) -> str:
    found: str = server.ok(f"gpu-share/allocations/{session['kernel']['id']}")["size"]
    return found


def started(server: Server, path: str, kind: str = "notebook") -> str:
    status, session = start(server, path, kind)
    assert status == 201, session
    size = size_of(server, session)
    server.fetch(f"api/sessions/{session['id']}", "DELETE")
    return size


def test_a_kernel_starts_with_the_size_that_was_chosen(tidy: Server) -> None:
    write(tidy, "one.ipynb")
    assert choose(tidy, "one.ipynb", "0.5")["size"] == "1/2"
    assert started(tidy, "one.ipynb") == "1/2"
    assert started(tidy, "two.ipynb") == "1/4"
    choose(tidy, "one.ipynb", None)
    assert started(tidy, "one.ipynb") == "1/4"


def test_a_session_that_gets_another_kernel_gets_the_size_too(tidy: Server) -> None:
    write(tidy, "one.ipynb")
    _, session = start(tidy, "one.ipynb")
    choose(tidy, "one.ipynb", "1/2")
    changed = tidy.ok(f"api/sessions/{session['id']}", "PATCH", {"kernel": {"name": "python3"}})
    assert size_of(tidy, changed) == "1/2"


def test_a_console_is_known_by_its_folder_and_name(tidy: Server) -> None:
    (tidy.folder / "lab").mkdir()
    choose(tidy, "lab/Console 1", "1/2")
    assert started(tidy, "lab/Console 1", "console") == "1/2"
    assert started(tidy, "Console 1", "console") == "1/4"


def test_a_change_of_size_is_a_choice_whoever_makes_it(tidy: Server) -> None:
    write(tidy, "one.ipynb")
    _, session = start(tidy, "one.ipynb")
    tidy.ok(f"api/sessions/{session['id']}", "PATCH", {"path": "one.ipynb", "name": "one.ipynb"})
    change = {"size": "1/2", "restart": True}
    tidy.ok(f"gpu-share/allocations/{session['kernel']['id']}", "PATCH", change)
    assert chosen(tidy, "one.ipynb") == "1/2"
    ask = {"size": "1/8", "dry_run": True}
    tidy.ok(f"gpu-share/allocations/{session['kernel']['id']}", "PATCH", ask)
    assert chosen(tidy, "one.ipynb") == "1/2"


def test_choices_follow_their_files(tidy: Server) -> None:
    write(tidy, "lab/one.ipynb")
    choose(tidy, "lab/one.ipynb", "1/2")
    tidy.ok("api/contents/lab/one.ipynb", "PATCH", {"path": "lab/two.ipynb"})
    until(lambda: chosen(tidy, "lab/two.ipynb") == "1/2", "the choice is renamed")
    # The next untitled notebook does not start with what was chosen for another.
    assert chosen(tidy, "lab/one.ipynb") is None
    tidy.ok("api/contents/lab", "PATCH", {"path": "old"})
    until(lambda: chosen(tidy, "old/two.ipynb") == "1/2", "the choice is moved")
    copy = tidy.ok("api/contents/old", "POST", {"copy_from": "old/two.ipynb"})["path"]
    until(lambda: chosen(tidy, copy) == "1/2", "the choice is copied")
    tidy.fetch("api/contents/old/two.ipynb", "DELETE")
    until(lambda: chosen(tidy, "old/two.ipynb") is None, "the choice is gone")


def test_a_notebook_saved_under_another_name_keeps_its_choice(tidy: Server) -> None:
    write(tidy, "one.ipynb")
    choose(tidy, "one.ipynb", "1/2")
    _, session = start(tidy, "one.ipynb")
    place = f"api/sessions/{session['id']}"
    tidy.ok(place, "PATCH", {"path": "one.ipynb", "name": "one.ipynb"})
    write(tidy, "other.ipynb")
    tidy.ok(place, "PATCH", {"path": "other.ipynb", "name": "other.ipynb"})
    until(lambda: chosen(tidy, "other.ipynb") == "1/2", "the choice is there too")
    assert chosen(tidy, "one.ipynb") == "1/2"


NEVER = [
    ("100GiB", 409, "100 GiB is more than the largest GPU here (80 GiB)."),
    ("2x1", 409, "this machine has 1 such GPU"),
    ("mig-1g.10gb", 409, "No GPU here has a MIG profile"),
    ("3/2", 400, "the largest size here is 1"),
    ("lots", 400, "lots"),
]


@pytest.mark.parametrize(("size", "status", "says"), NEVER)
def test_what_can_never_be_had_is_refused_and_changes_nothing(
    tidy: Server, size: str, status: int, says: str
) -> None:
    choose(tidy, "one.ipynb", "1/2")
    for body in ({"path": "one.ipynb"}, {"dry_run": True}):
        found, told = tidy.fetch("gpu-share/choices", "PUT", {**body, "size": size})
        assert (found, says in told["message"]) == (status, True), told
    assert chosen(tidy, "one.ipynb") == "1/2"


def test_what_has_to_wait_can_be_chosen_and_why_is_told(tidy: Server) -> None:
    tidy.start_kernel("3/4")
    told = tidy.ok("gpu-share/choices", "PUT", {"size": "1/2", "dry_run": True})
    assert "It needs 40 GiB" in told["why"]
    assert choose(tidy, "one.ipynb", "1/4")["why"] is None


def test_asking_only_remembers_nothing(tidy: Server) -> None:
    body = {"path": "one.ipynb", "size": "1/2", "dry_run": True}
    assert tidy.ok("gpu-share/choices", "PUT", body)["size"] == "1/2"
    assert chosen(tidy, "one.ipynb") is None


def test_a_choice_that_cannot_be_had_any_more_is_tried_once(tidy: Server) -> None:
    write(tidy, "one.ipynb")
    choose(tidy, "one.ipynb", "1/2")
    (file,) = (tidy.folder.parent / "data" / "gpu-share" / "sizes").iterdir()
    file.write_text(json.dumps({"one.ipynb": "100GiB"}))
    status, told = start(tidy, "one.ipynb")
    assert status >= 500
    assert "100 GiB is more than the largest GPU here" in str(told)
    assert chosen(tidy, "one.ipynb") is None
    assert started(tidy, "one.ipynb") == "1/4"


def write_kernelspecs(server: Server) -> None:
    """Kernelspecs that name a size, in both ways, and one without a share."""
    kernels = server.folder.parent / "data" / "kernels"
    argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    plain = {"argv": argv, "display_name": "x", "language": "python"}
    ours = {"provisioner_name": "gpu-share-provisioner", "config": {"size": "1/2"}}
    specs = {
        "half": {**plain, "metadata": {"kernel_provisioner": ours}},
        "eighth": {**plain, "env": {"JUPYTER_GPU_SHARE_SIZE": "1/8"}},
        "other": {
            **plain,
            "metadata": {"kernel_provisioner": {"provisioner_name": "local-provisioner"}},
        },
    }
    for name, spec in specs.items():
        (kernels / name).mkdir(parents=True)
        (kernels / name / "kernel.json").write_text(json.dumps(spec))


def test_the_default_that_is_told_is_what_a_kernel_gets(tidy: Server) -> None:
    write_kernelspecs(tidy)
    write(tidy, "plain.ipynb")
    found = tidy.ok("gpu-share/choices?path=plain.ipynb")["defaults"]
    assert found == {"python3": "1/4", "half": "1/2", "eighth": "1/8"}
    for name, size in found.items():
        body = {"path": "plain.ipynb", "name": "plain.ipynb", "type": "notebook"}
        session = tidy.ok("api/sessions", "POST", {**body, "kernel": {"name": name}})
        assert size_of(tidy, session) == size
        tidy.fetch(f"api/sessions/{session['id']}", "DELETE")


@pytest.mark.parametrize(("name", "size"), [("half", "1/2"), ("eighth", "1/8")])
def test_a_kernelspec_that_names_a_size_starts_with_it_whatever_was_chosen(
    tidy: Server, name: str, size: str
) -> None:
    write_kernelspecs(tidy)
    write(tidy, "one.ipynb")
    choose(tidy, "one.ipynb", "1/4")
    found = tidy.ok("gpu-share/choices?path=one.ipynb")
    assert found["fixed"] == {"half": "1/2", "eighth": "1/8"}
    body = {"path": "one.ipynb", "name": "one.ipynb", "type": "notebook", "kernel": {"name": name}}
    session = tidy.ok("api/sessions", "POST", body)
    assert size_of(tidy, session) == size
    # The other way round: who picks another kernelspec again has what was chosen.
    body = {"kernel": {"name": "python3"}}
    changed = tidy.ok(f"api/sessions/{session['id']}", "PATCH", body)
    assert size_of(tidy, changed) == "1/4"
    changed = tidy.ok(f"api/sessions/{session['id']}", "PATCH", {"kernel": {"name": name}})
    assert size_of(tidy, changed) == size
    # Another size is refused, and nothing is remembered.
    body = {"path": "one.ipynb", "size": "1", "kernelspec": name}
    status, refused = tidy.fetch("gpu-share/choices", "PUT", body)
    assert (status, f"start with the size {size} that it names" in refused["message"]) == (
        409,
        True,
    )
    assert chosen(tidy, "one.ipynb") == "1/4"
    assert tidy.ok("gpu-share/choices", "PUT", {**body, "size": size, "dry_run": True})


def test_one_kernel_of_such_a_kernelspec_starts_otherwise_where_that_is_asked_for(
    tidy: Server,
) -> None:
    write_kernelspecs(tidy)
    write(tidy, "one.ipynb")
    kernel_id = str(uuid4())
    request = {"size": "0", "path": "one.ipynb", "name": "half"}
    tidy.ok(f"gpu-share/requests/{kernel_id}", "PUT", request)
    kernel = {"id": kernel_id, "name": "half"}
    body = {"path": "one.ipynb", "name": "one.ipynb", "type": "notebook", "kernel": kernel}
    session = tidy.ok("api/sessions", "POST", body)
    assert (session["kernel"]["id"], size_of(tidy, session)) == (kernel_id, "0")
    assert chosen(tidy, "one.ipynb") is None


def test_a_user_has_a_default_of_their_own(tidy: Server) -> None:
    write(tidy, "plain.ipynb")
    write(tidy, "hinted.ipynb", jupyter_gpu_share={"size": "1/8"})
    choose(tidy, "", "1/2")
    assert tidy.ok("gpu-share/choices")["size"] == "1/2"
    assert tidy.ok("gpu-share/choices?path=plain.ipynb")["defaults"] == {"python3": "1/2"}
    assert started(tidy, "plain.ipynb") == "1/2"
    assert started(tidy, "hinted.ipynb") == "1/8"
    choose(tidy, "plain.ipynb", "1/4")
    assert started(tidy, "plain.ipynb") == "1/4"
    choose(tidy, "", None)
    assert tidy.ok("gpu-share/choices")["size"] is None


BAD = [
    ({"size": "1/4"}, "Name a path and a size"),
    ({"path": "one.ipynb"}, "Name a path and a size"),
    ({"path": "../one.ipynb", "size": "1/4"}, "within the server's folder"),
    ({"path": "one.ipynb", "size": 1}, "wrong type"),
]


@pytest.mark.parametrize(("body", "says"), BAD)
def test_bad_choices(server: Server, body: Any, says: str) -> None:
    status, found = server.fetch("gpu-share/choices", "PUT", body)
    assert (status, says in found["message"]) == (400, True), found


def test_a_kernelspec_without_a_share_has_no_choice(server: Server) -> None:
    body = {"size": "1/4", "kernelspec": "none-such", "dry_run": True}
    status, found = server.fetch("gpu-share/choices", "PUT", body)
    assert (status, found["message"]) == (409, "There is no kernelspec 'none-such'.")
