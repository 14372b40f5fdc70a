"""What the docs name is there, and says what they say that it says."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from messages import literals, sentences
from shapes import Shapes, facts
from traitlets import TraitType

from jupyter_gpu_share.broker.cluster.program import ClusterBroker
from jupyter_gpu_share.broker.daemon import LocalBroker
from jupyter_gpu_share.cli._parser import make_parser
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._environment import _RESERVED, kernel_environment
from jupyter_gpu_share.engines.kubernetes._restricted import _VOLUMES
from jupyter_gpu_share.engines.kubernetes._settings import KubernetesSettings
from jupyter_gpu_share.engines.kubernetes.backends import BACKENDS, Backend, Facts, make_backend
from jupyter_gpu_share.engines.local import LocalEngine
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.provisioner import GpuShareProvisioner
from jupyter_gpu_share.server import GpuShareApp
from jupyter_gpu_share.size import Size, SizePolicy

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "jupyter_gpu_share"
ENGINE = PACKAGE / "engines" / "kubernetes"
DOCS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCS += sorted((ROOT / "docs").glob("*.md"))
#: Both homes of the broker take ``c.Broker``.
Broker = type("Broker", (LocalBroker, ClusterBroker), {})
CONFIGURED: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Broker,
        GpuShareApp,
        GpuShareProvisioner,
        IdlePolicy,
        KubernetesEngine,
        LocalEngine,
        SizePolicy,
    )
}
#: Files that are made by a target of the Makefile, and are not in the repository.
MADE = {"build/bench.json", "build/browser"}
#: What tells its own remedy, or is for who writes a client of the broker.
UNEXPLAINED = {
    *("__init__.py", "_settings.py", "_doctor.py", "_brokered_doctor.py", "doctor.py"),
    *("admin_routes.py", "routes.py", "rows.py"),
}
#: What the engine says where nothing is wrong.
STATES = {
    "The kernel does not run.",
    "The kernel was shut down.",
    "The kernel's pod ends.",
    "The share is being allocated.",
    "The access to Kubernetes has been closed.",
    "The kernel has ended.",
    "The kernel has ended. …",
}
#: What the broker of a cluster tells who writes a client of their own, or what nobody can meet.
OF_PROTOCOL = {
    "The broker writes nothing before it has its Lease.",
    "The request needs the header …: 32 hexadecimal digits.",
    "There is nothing at this address; the broker's begin with ….",
    "Without the service's name every token of the Hub would do.",
    "… has no kernel … ….",
    "… that holds a share.",
}


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of all rows of tables, heads and rules left out."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        after = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("|") and not line.startswith("|--") and not after.startswith("|--"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def section(text: str, heading: str) -> str:
    """From a heading of the second level to the next one."""
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found, heading
    return found[1]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# -- links, paths, commands ----------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCS, ids=ids(DOCS))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / unquote(name)).resolve() if name else path
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text("utf-8"), re.MULTILINE)
            assert anchor in [slug(heading) for heading in headings], target


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCS, ids=ids(DOCS))
def test_every_path_of_the_repository_is_there(path: Path) -> None:
    tops = "|".join(sorted(child.name for child in ROOT.iterdir() if child.name[0] != "."))
    for name in re.findall(rf"(?<![\w/.-])(?:{tops})/[\w./*-]*[\w*]", path.read_text("utf-8")):
        if name not in MADE:
            assert list(ROOT.glob(name)), name


@pytest.mark.parametrize("path", DOCS, ids=ids(DOCS))
def test_every_folder_that_is_applied_can_be(path: Path) -> None:
    for name in re.findall(r"kubectl apply -k (\S+?)[`\s]", path.read_text("utf-8")):
        assert (ROOT / name / "kustomization.yaml").is_file(), name


def test_every_manifest_is_told_of() -> None:
    text = section(read("docs/kubernetes.md"), "Manifests")
    told = {name for cells in rows(text) for name in code(cells[0])}
    there = (ROOT / "etc" / "kubernetes").rglob("kustomization.yaml")
    assert told == {path.parent.relative_to(ROOT).as_posix() for path in there}


@pytest.mark.parametrize("path", DOCS, ids=ids(DOCS))
def test_every_target_of_make_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    told = re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE)
    assert set(told) <= targets


@pytest.mark.parametrize("path", DOCS, ids=ids(DOCS))
def test_every_command_is_there(path: Path) -> None:
    (commands,) = (action.choices for action in make_parser()._actions if action.choices)
    text = path.read_text("utf-8")
    told = re.findall(r"(?:`|^|\$ )jupyter gpu-share ([a-z]+)", text, re.MULTILINE)
    assert set(told) <= set(commands or ())


# -- settings and options ------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCS, ids=ids(DOCS))
def test_every_setting_exists(path: Path) -> None:
    for kind, name in re.findall(r"\bc\.([A-Z]\w+)\.(\w+)", path.read_text("utf-8")):
        assert name in CONFIGURED[kind].class_trait_names(config=True), f"c.{kind}.{name}"


def test_every_setting_of_the_engine_is_told_with_its_default() -> None:
    told = {
        code(cells[0])[0]: ", ".join(code(cells[1])) or cells[1]
        for cells in rows(section(read("docs/kubernetes.md"), "Settings"))
    }
    traits = KubernetesSettings.class_traits(config=True)
    assert told == {name: shown(trait) for name, trait in traits.items()}


def shown(trait: TraitType[Any, Any], nothing: str = "none") -> str:
    value = trait.default()
    if isinstance(value, float):
        return f"{value:g}"
    return (", ".join(value) if isinstance(value, list | dict) else str(value)) or nothing


@pytest.mark.parametrize(
    ("document", "heading", "home"),
    [
        ("shared-machine", "Settings", LocalBroker),
        ("jupyterhub", "Settings of the broker", ClusterBroker),
    ],
)
def test_every_setting_of_the_broker_is_told_with_its_default(
    document: str, heading: str, home: type[LocalBroker | ClusterBroker]
) -> None:
    table = rows(section(read(f"docs/{document}.md"), heading))
    told = {
        code(cells[0])[0].removeprefix("c.Broker."): ", ".join(code(cells[1])) or cells[1]
        for cells in table
        if code(cells[0])[0].startswith("c.Broker.")
    }
    traits = home.class_traits(config=True)
    of_chart = runpy.run_path(str(ROOT / "scripts" / "chart.py"))["_OTHERS"]["Broker"]
    for name in of_chart if home is ClusterBroker else ():
        traits.pop(name, None)
    assert told == {name: shown(trait, "empty") for name, trait in traits.items()}


def test_what_never_reaches_a_kernel_from_the_server_is_told() -> None:
    text = section(read("docs/kubernetes.md"), "Environment")
    told = code(text[text.index("Even with") : text.index("`environment` and what")])
    told = [name for name in told if name != "*"]
    assert len(told) > 10
    for name in told:
        for value in (name, name.replace("*", "X")):
            assert not kernel_environment({value: "x"}, (), ["*"]), name
    told = [re.escape(name).replace(r"\*", ".*") for name in told]
    refused = _RESERVED.pattern.replace("(?!SESSION_NAME$)", "").split("|")
    assert sorted(told) == sorted(refused)


def test_every_kind_of_volume_that_is_allowed_is_told() -> None:
    text = section(read("docs/kubernetes.md"), "Volumes")
    assert set(code(text[text.index("Allowed are") : text.index("; neither")])) == _VOLUMES


@pytest.mark.parametrize("name", BACKENDS)
def test_every_option_of_a_backend_is_told_with_its_default(name: str) -> None:
    told = {
        code(cells[0])[0]: cells[1].replace("`", "")
        for cells in rows(section(read("docs/backends.md"), f"`{name}`"))
        if "requested" not in cells and cells[0].strip("`") in BACKENDS[name].options
    }
    assert set(told) == set(BACKENDS[name].options)
    for option, meaning in BACKENDS[name].options.items():
        default = re.search(r"Default:? ([^,;]+?)(?:\.$|[,;]| for |\. )", meaning)
        assert default, option
        assert default[1].rstrip(".") == told[option], option


def test_backends_are_told_in_the_order_in_which_they_are_found() -> None:
    text = read("docs/backends.md")
    table = [code(cells[0])[0] for cells in rows(text.partition("## ")[0])]
    assert table == list(BACKENDS)
    styles = {code(cells[0])[0]: tuple(code(cells[3])) for cells in rows(text.partition("## ")[0])}
    assert styles == {name: backend.styles for name, backend in BACKENDS.items()}


# -- what is said --------------------------------------------------------------------------------

DRA, KAI, HAMI, MIG, PLUGIN = map(Shapes, ("dra", "kai", "hami", "mig", "device_plugin"))


def hami(**options: str) -> Backend:
    return make_backend("hami", options)


#: For each table of examples in docs/backends.md, in its order.
EXAMPLES: dict[str, list[tuple[Backend, Facts]]] = {
    "dra": [
        (make_backend("dra", {}), facts(slices=[DRA.shared80])),
        (make_backend("dra", {}, "lease"), facts(slices=[DRA.nvidia80])),
    ],
    "kai": [
        (make_backend("kai", {}), facts(KAI.node)),
        (make_backend("kai", {}, "annotation"), facts(KAI.node)),
    ],
    "hami": [
        (hami(), facts(HAMI.node)),
        (hami(memory_factor="1024"), facts(HAMI.node)),
    ],
    "mig": [(make_backend("mig", {}), facts(MIG.mixed))],
    "device-plugin": [
        (make_backend("device-plugin", {}), facts(PLUGIN.slices4)),
        (make_backend("device-plugin", {}), facts(PLUGIN.mps10)),
    ],
}


@pytest.mark.parametrize("name", BACKENDS)
def test_examples_of_sizes_are_what_the_backend_makes_of_them(name: str) -> None:
    text = section(read("docs/backends.md"), f"`{name}`")
    tables = re.findall(r"\| asked \|.*\n((?:\|.*\n)+)", text)
    for table, (backend, known) in zip(tables, EXAMPLES[name], strict=True):
        examples = list(rows("|\n" + table))
        assert len(examples) > 1
        for asked, requested, said in examples:
            wanted, told = asked_of(backend, asked.strip("`"), known)
            assert told == said.strip("*-").replace("**", ""), asked
            assert [pair for pair in code(requested) if pair not in wanted] == [], wanted
            assert bool(code(requested)) == bool(wanted), asked


def asked_of(backend: Backend, size: str, known: Facts) -> tuple[list[str], str]:
    """What a size becomes, as pairs in text, and what the user is told."""
    try:
        rendered = backend.render(Size.parse(size), known)
    except NoGpuError as error:
        return [], str(error)
    pairs = {**rendered.limits, **rendered.annotations}
    claims = json.dumps([claim.spec for claim in rendered.claims])
    pairs |= dict(re.findall(r'"requests": {"(\w+)": "(\w+)"}', claims))
    return [f"{name}: {value}" for name, value in pairs.items()], rendered.note


def fits(pattern: str, text: str) -> bool:
    """Whether a text has the parts of a pattern, in their order."""
    at = 0
    for part in (part.strip() for part in pattern.split("…")):
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


def told() -> list[str]:
    """The messages that docs/troubleshooting.md explains."""
    text = read("docs/troubleshooting.md")
    return [message for cells in rows(text) for message in re.findall(r"\*([^*]+)\*", cells[0])]


def test_every_message_that_is_explained_is_one_of_the_package() -> None:
    said = [text for path in PACKAGE.rglob("*.py") for text in literals(path)]
    # Values stand in some of them, which a program puts in; and some are made of two.
    values = re.compile(r"\b(3/2|3/4|60 s|1 of 2|1)\b")
    for message in told():
        for part in re.split("[;:] ", values.sub("…", message)):
            assert any(fits(part, text) for text in said), message


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in (ENGINE, ENGINE / "api", ENGINE / "backends", PACKAGE / "broker" / "cluster")
        for path in sorted(folder.glob("*.py"))
        if path.name not in UNEXPLAINED
    ],
    ids=lambda path: path.stem,
)
def test_every_message_of_the_engine_is_explained(path: Path) -> None:
    explained = told()
    missing = [
        text
        for text in sentences(path)
        if text not in STATES | OF_PROTOCOL
        and " becomes …" not in text
        and not any(fits(pattern, text) for pattern in explained)
    ]
    assert not missing


def test_every_cause_of_an_end_is_told() -> None:
    text = (ENGINE / "_failures.py").read_text("utf-8")
    kinds = set(re.findall(r'Cause\(\s*"(\w+)"', text))
    assert len(kinds) > 5
    table = section(read("docs/kubernetes.md"), "The life of a kernel")
    assert kinds <= {cells[0] for cells in rows(table)}


def test_what_is_held_apart_how_is_told_for_every_kind() -> None:
    from jupyter_gpu_share.allocations import Isolation

    table = section(read("README.md"), "What isolation means")
    assert {code(cells[0])[0] for cells in rows(table)} == {kind.value for kind in Isolation}


def test_the_glossary_is_short_and_gives_each_word_one_meaning() -> None:
    words = [cells[0] for cells in rows(read("docs/glossary.md"))]
    assert 5 < len(words) <= 15
    assert len(set(words)) == len(words)
    assert "(docs/glossary.md)" in read("README.md")
