"""A day without a load is a warning of `warehouse check`."""

from datetime import timedelta

from ingest.store.database import utc_now
from orchestration.derive.dbt_runner import look_at_freshness
from tests.support.builders import Warehouse, ping


def test_a_day_without_a_load_is_warned_of(warehouse: Warehouse) -> None:
    before = utc_now() - timedelta(days=3, hours=1)
    warehouse.land([ping("e1")], received_at=before)
    [old] = look_at_freshness(warehouse.path).nodes
    assert (old.name, old.warned) == ("load", True)
    assert old.message == f"nothing came since {before:%Y-%m-%d} (3 days)"
    warehouse.land([ping("e2")], received_at=utc_now())
    [new] = look_at_freshness(warehouse.path).nodes
    assert new.status == "pass"
