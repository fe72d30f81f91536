"""Key figures past their level: a check in Dagster, and a failed run."""

from datetime import datetime

import dagster as dg
import pytest

from tests.support.builders import Warehouse, ping

pytestmark = pytest.mark.long


def look(
    warehouse: Warehouse, now: str, monkeypatch: pytest.MonkeyPatch
) -> dg.ExecuteInProcessResult:
    from orchestration.definitions import defs

    warehouse.refresh(now=now)
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))
    with dg.instance_for_test() as instance:
        return defs.resolve_job_def("kpis").execute_in_process(
            instance=instance, raise_on_error=False
        )


@pytest.mark.parametrize(
    ("now", "severity", "succeeds"),
    [
        # One of three learners has no event for 30 days, then two of them.
        ("2026-03-20 00:00:00", None, True),
        ("2026-04-10 00:00:00", dg.AssetCheckSeverity.WARN, True),
        ("2026-04-15 00:00:00", dg.AssetCheckSeverity.ERROR, False),
    ],
)
def test_a_figure_past_its_level_warns_and_a_critical_one_fails_the_run(
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    now: str,
    severity: dg.AssetCheckSeverity | None,
    succeeds: bool,
) -> None:
    warehouse.land(
        [
            ping("e1", user="u1", at="2026-03-10T00:00:00Z"),
            ping("e2", user="u2", at="2026-03-15T00:00:00Z"),
            ping("e3", user="u3", at="2026-04-15T00:00:00Z"),
        ],
        received_at=datetime(2026, 4, 20),
    )

    result = look(warehouse, now, monkeypatch)

    [check] = result.get_asset_check_evaluations()
    assert check.passed == (severity is None)
    if severity:
        assert check.severity == severity
    assert result.success == succeeds
