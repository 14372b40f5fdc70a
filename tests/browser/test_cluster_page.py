"""The page of a cluster's broker behind a real JupyterHub, in a real browser that logs in there.

The broker is the program itself, over the test cluster, where the kernels run.
"""

from __future__ import annotations

import csv
import io
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from holders import Holder, HubOfCluster, hub_of_cluster
from hubs import fetch
from logins import log_in
from pages import Heard, assert_readable
from playwright.sync_api import Page, expect
from prometheus_client.parser import text_string_to_metric_families
from servers import until

pytestmark = CLUSTER_MARKS


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


ANN, ROOT = "ann", "root-of-hub"
EVE = "<img src=x onerror=\"document.title='taken'\">"
HOSTILE = "<img src=x onerror=\"document.title='taken'\">.ipynb"
LONG = "course/week-01/a-long-name-of-a-notebook-that-trains.ipynb"
#: Port of the metrics.
METRICS = free_port()
#: Seconds within which the page shows what its buttons did.
SOON = 1.0


@pytest.fixture(scope="module")
def hub(cluster: Any) -> Iterator[HubOfCluster]:
    with hub_of_cluster(cluster) as running:
        running.start_broker(f"c.Broker.metrics_bind = '127.0.0.1:{METRICS}'")
        yield running


@pytest.fixture
def users(hub: HubOfCluster) -> Iterator[dict[str, Holder]]:
    """Ann, who holds a share on each of two servers, and somebody with a hostile name."""
    with ExitStack() as stack:
        found = {
            name: stack.enter_context(Holder.alive(hub, user, server))
            for name, user, server in ((ANN, ANN, ""), ("lab", ANN, "lab"), (EVE, EVE, ""))
        }
        found[ANN].start("a", "1/2", LONG)
        found["lab"].start("b", "1/4", "lab.ipynb")
        found[EVE].start("c", "1/4", HOSTILE)
        yield found
    hub.empty()


def page_of(hub: HubOfCluster) -> str:
    return f"{hub.url}services/gpu-share/"


def reloaded(page: Page, text: str) -> bool:
    """Whether a page has a text, when it is loaded anew."""
    page.reload()
    return text in (page.text_content("main") or "")


def row_of(page: Page, text: str) -> Any:
    return page.get_by_role("row").filter(has_text=text)


def test_an_administrator_sees_all_and_asks_back_and_ends(
    hub: HubOfCluster, users: dict[str, Holder], page: Page, heard: Heard
) -> None:
    log_in(page, page_of(hub), ROOT)
    expect(page).to_have_title("GPU shares of all users")
    # Names are text.
    expect(page.get_by_role("cell", name=HOSTILE, exact=True)).to_be_visible()
    expect(page.get_by_role("cell", name=EVE, exact=True)).to_be_visible()
    expect(row_of(page, LONG).get_by_role("cell", name=ANN, exact=True)).to_be_visible()
    expect(row_of(page, "lab.ipynb").get_by_role("cell", name="ann/lab")).to_be_visible()
    assert not [each for each in heard.everything if "Content Security Policy" in each]
    assert_readable(page)

    # One that is used, and one that nobody uses, which then goes.
    users["lab"].gives, users["lab"].idle["b"] = False, 700.0
    until(lambda: reloaded(page, "11 min"), "its server has said so")
    for name, told in ((LONG, "It is asked back, and goes once it is unused."), ("lab.ipynb", "")):
        begun = time.monotonic()
        row_of(page, name).get_by_role("button", name="Ask back").click()
        expect(row_of(page, name)).to_contain_text(told or "It is asked back.")
        assert time.monotonic() - begun < SOON
    users["lab"].gives = True
    until(lambda: users["lab"].state("b") == "released", "its server has given it back")
    page.get_by_role("link", name="Look again").click()
    expect(row_of(page, "lab.ipynb")).to_have_count(0)

    row = row_of(page, HOSTILE)
    row.get_by_text("End…").click()
    begun = time.monotonic()
    row.get_by_role("button", name="End it: its variables are lost").click()
    expect(page.get_by_role("cell", name=HOSTILE, exact=True)).not_to_be_visible()
    assert time.monotonic() - begun < SOON
    assert page.url == page_of(hub)

    page.get_by_role("button", name="Give out no new shares").click()
    expect(page.get_by_text("No new shares are given out for now.")).to_be_visible()
    page.get_by_role("button", name="Give out shares again").click()
    expect(page.get_by_text("No new shares are given out for now.")).not_to_be_visible()
    for proof in ("", "forged"):
        answer = page.request.post(f"{page_of(hub)}do", form={"do": "pause", "_xsrf": proof})
        assert (answer.status, answer.text()[:33]) == (403, "This did not come from the page; ")
    assert heard.unexpected() == []


def test_a_user_sees_their_own_of_all_their_servers(
    hub: HubOfCluster, users: dict[str, Holder], page: Page, heard: Heard
) -> None:
    log_in(page, page_of(hub), ANN)
    expect(page).to_have_title("Your GPU shares")
    expect(row_of(page, LONG)).to_be_visible()
    expect(row_of(page, "lab.ipynb")).to_be_visible()
    expect(page.get_by_role("cell", name=f"user {ANN}")).to_be_visible()
    expect(page.get_by_role("button")).to_have_count(0)
    assert "<img" not in page.get_by_role("main").inner_html() and EVE not in page.content()
    assert_readable(page)
    assert heard.unexpected() == []


def test_prometheus_gets_the_metrics_without_names(
    hub: HubOfCluster, users: dict[str, Holder]
) -> None:
    status, text = fetch(f"http://127.0.0.1:{METRICS}/metrics")
    assert status == 200
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix("jupyter_gpu_share_broker_")
            found.setdefault(name, {})[",".join(sample.labels.values())] = sample.value
    assert found["kernels"] == {"used": 3, "idle": 0, "waiting": 0}
    held = sum(found["gpu_memory_held_bytes"].values())
    assert held == pytest.approx(80 * 2**30, rel=0.01)
    assert len(found["gpu_memory_bytes"]) == 2
    assert "onerror" not in text and "user=" not in text


def test_what_is_an_administrators_is_theirs(hub: HubOfCluster, users: dict[str, Holder]) -> None:
    for path in ("/v1/admin/shares", "/v1/admin/usage", "/v1/metrics"):
        assert hub.ask_broker("GET", path, hub.token(ANN))[0] == 403
        assert hub.ask_broker("GET", path, hub.token(ROOT))[0] == 200
    status, text = hub.ask_broker("GET", "/v1/admin/usage?format=csv", hub.token(ROOT))
    assert status == 200
    table = list(csv.reader(io.StringIO(text)))
    assert table[0] == ["day", "of", "name", "held", "used", "idle", "given_back"]
    assert {EVE, ANN} <= {row[2] for row in table[1:]}
