"""Each state of the table comes back as it was, or is told, or is in the docs as not looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import rows_classes
import rows_libraries
import rows_numpy
import rows_pandas
import rows_process
import rows_python
import rows_session
import table
from table import Group, Outcome, Row

pytestmark = pytest.mark.slow

GROUPS: list[Group] = [
    *rows_python.GROUPS,
    *rows_classes.GROUPS,
    *rows_numpy.GROUPS,
    *rows_pandas.GROUPS,
    *rows_process.GROUPS,
    *rows_session.GROUPS,
    *rows_libraries.GROUPS,
]
ROWS = [row for group in GROUPS for row in group.rows]
KEEPING = Path(__file__).parents[2] / "docs" / "keeping.md"


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[list[Outcome]]]]:
    """What becomes of the groups of the tests that are run; two run at once."""
    wanted = {
        item.callspec.params["row"].group
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and isinstance(item.callspec.params.get("row"), Row)
    }
    folder = tmp_path_factory.mktemp("kept")
    with ThreadPoolExecutor(2) as pool:
        yield {
            group.name: pool.submit(table.run, group, folder)
            for group in GROUPS
            if group.name in wanted and group.python is not None
        }


def outcome_of(
    row: Row, outcomes: dict[str, Future[list[Outcome]]]
) -> tuple[Outcome, dict[str, str], dict[str, str]]:
    """What became of a row, and its own part of what is told and of what the proof tells."""
    group = next(group for group in GROUPS if group.name == row.group)
    if group.python is None:
        pytest.skip(f"{' or '.join(group.needs)} is not installed here: make test-libraries")
    number = group.rows.index(row)
    outcome = outcomes[row.group].result()[number]
    own = table.prefix(number)
    wanted = row.name.replace("§", own)

    def mine(names: dict[str, str]) -> dict[str, str]:
        return {
            name: why
            for name, why in names.items()
            if re.search(rf"\b{own}", name) or (wanted and name.startswith(wanted))
        }

    return outcome, mine(outcome.told), mine(outcome.disproved)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.group}: {row.title}")
def test_nothing_changes_in_silence(row: Row, outcomes: dict[str, Future[list[Outcome]]]) -> None:
    outcome, told, disproved = outcome_of(row, outcomes)
    assert outcome.error == "", "the state cannot be made"
    assert outcome.between == outcome.before, "the look has changed it"
    assert outcome.afterwards == outcome.before, "the save has changed it"
    if row.verdict == table.TOLD:
        assert told, f"nothing is told; it was {outcome.before} and is {outcome.after}"
        return
    assert told == {}
    if row.verdict == table.PROVEN:
        assert disproved, f"nothing is told; it was {outcome.before} and is {outcome.after}"
        return
    assert disproved == {}
    if row.verdict == table.SAME:
        assert outcome.after == outcome.before
    else:
        assert outcome.after != outcome.before, "it is kept: say so in the docs"
        assert row.reason in " ".join(KEEPING.read_text().split())


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_nothing_else_is_told(group: Group, outcomes: dict[str, Future[list[Outcome]]]) -> None:
    """All that is told is of a row that says so, and all else is restored."""
    found = outcomes.get(group.name)
    if found is None:
        pytest.skip("no row of this group is run, or its library is not installed here")
    outcome = found.result()[0]
    assert outcome.failed == {}
    for name, why in {**outcome.told, **outcome.disproved}.items():
        owners = [
            row
            for n, row in enumerate(group.rows)
            if row.verdict in (table.TOLD, table.PROVEN)
            and (
                re.search(rf"\b{table.prefix(n)}", name)
                or (row.name and name.startswith(row.name.replace("§", table.prefix(n))))
            )
        ]
        assert owners, (name, why)


def test_there_are_enough() -> None:
    assert len(ROWS) >= 250
    assert len({(row.group, row.title) for row in ROWS}) == len(ROWS)
    assert len({group.name for group in GROUPS}) == len(GROUPS)
    for row in ROWS:
        assert (row.verdict == table.UNSEEN) == bool(row.reason), row.title
