"""The extension is built when its sources have changed, and only then."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "labextension.py"


class Project:
    """A folder with sources, and a count of the builds that were made of them."""

    def __init__(self, script: ModuleType, root: Path) -> None:
        self.script, self.root, self.builds = script, root, 0
        self.source = root / "labextension" / "src" / "index.ts"
        self.built = root / "jupyter_gpu_share" / "labextension"
        self.source.parent.mkdir(parents=True)
        self.source.write_text("one")
        (root / "labextension" / "install.json").write_text("{}")

    def make(self) -> str:
        """Bring it up to date; what is built then."""
        self.script.make(self.root)
        return (self.built / "out.js").read_text()

    def run_builder(self, sources: Path) -> None:
        """Stands in for jlpm."""
        self.builds += 1
        self.built.mkdir(parents=True)
        (self.built / "out.js").write_text((sources / "src" / "index.ts").read_text())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return make_project(tmp_path / "project", monkeypatch)


def make_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    spec = importlib.util.spec_from_file_location("build_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.delenv("JUPYTER_GPU_SHARE_BUILD_CACHE", raising=False)
    found = Project(script, root)
    monkeypatch.setattr(script, "_run_builder", found.run_builder)
    return found


def test_it_is_built_when_its_sources_change(project: Project) -> None:
    assert [project.make(), project.make()] == ["one", "one"]
    assert project.builds == 1
    project.source.touch()
    project.make()
    assert project.builds == 1
    project.source.write_text("two")
    assert project.make() == "two"
    project.source.rename(project.source.with_name("other.ts"))
    project.source.write_text("")
    project.make()
    assert project.builds == 3
    assert (project.built / "install.json").is_file()


def test_a_fresh_clone_finds_the_build_of_the_same_sources(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_project(tmp_path / "clone", monkeypatch)
    monkeypatch.setenv("JUPYTER_GPU_SHARE_BUILD_CACHE", str(tmp_path / "cache"))
    assert project.make() == "one"
    assert (other.make(), other.builds) == ("one", 0)
    other.source.write_text("two")
    assert (other.make(), other.builds) == ("two", 1)
    other.source.write_text("one")
    assert (other.make(), other.builds) == ("one", 1)


def test_the_cache_does_not_grow_for_ever(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_GPU_SHARE_BUILD_CACHE", str(tmp_path / "cache"))
    for number in range(project.script.KEPT + 3):
        project.source.write_text(str(number))
        project.make()
    assert len(list((tmp_path / "cache").iterdir())) == project.script.KEPT


def test_what_was_written_during_a_build_is_built_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disturbed(sources: Path) -> None:
        project.run_builder(sources)
        if project.builds == 1:
            project.source.write_text("two")

    monkeypatch.setattr(project.script, "_run_builder", disturbed)
    assert [project.make(), project.make()] == ["one", "two"]


def test_what_a_developer_has_built_is_not_taken_for_it(project: Project) -> None:
    project.make()
    (project.built / "out.js").write_text("with source maps")
    assert project.make() == "one"


def test_a_build_that_fails_is_not_taken_for_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.make()
    project.source.write_text("two")

    def broken(sources: Path) -> None:
        project.built.mkdir()
        (project.built / "out.js").write_text("half")
        raise OSError("the builder failed")

    monkeypatch.setattr(project.script, "_run_builder", broken)
    with pytest.raises(OSError, match="the builder failed"):
        project.make()
    monkeypatch.setattr(project.script, "_run_builder", project.run_builder)
    project.source.write_text("one")
    assert project.make() == "one"
