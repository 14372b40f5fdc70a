"""What the doctor says of style lease: which access it needs, and whether the namespace has it."""

from __future__ import annotations

import pytest

from jupyter_gpu_share.engines.kubernetes._doctor import about_leases

LABEL = "kubectl label namespace lab resource.kubernetes.io/admin-access"


def test_nothing_is_asked_for_where_kernels_rest_on_a_small_amount() -> None:
    for allowed in (False, None):
        (finding,) = about_leases([], allowed, "lab")
        assert (finding.level, finding.fix) == ("ok", None)
        assert "needs no administrator access" in finding.what
    _, finding = about_leases([], True, "lab")
    assert (finding.level, finding.fix) == ("note", f"{LABEL}-")


@pytest.mark.parametrize(
    ("allowed", "level", "fix"),
    [
        (True, "ok", None),
        (False, "error", f"{LABEL}=true"),
        (None, "note", "kubectl get namespace lab --show-labels"),
    ],
)
def test_the_label_is_asked_for_where_it_is_needed(
    allowed: bool | None, level: str, fix: str | None
) -> None:
    (finding,) = about_leases(["NVIDIA A100", "NVIDIA H100"], allowed, "lab")
    assert (finding.level, finding.fix) == (level, fix)
    assert "on NVIDIA A100, NVIDIA H100" in finding.what
