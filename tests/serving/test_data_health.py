"""Data health: the published snapshots that are kept, and how the last runs ended."""

from datetime import datetime
from pathlib import Path

import pytest

from ingest.errors import WarehouseError
from ingest.store import last_runs
from ingest.store.last_runs import Run
from serving.access import Scope
from serving.questions import data_health
from serving.reader import Follower
from tests.support.builders import Warehouse, ping
from tests.support.snapshot import publish_without_dbt


@pytest.fixture
def published(warehouse: Warehouse) -> Path:
    """Published after each of two loads; where readers find the newest."""
    for event_id in ("e1", "e2"):
        warehouse.land([ping(event_id)])
        path = publish_without_dbt(warehouse)
    return path


def test_the_published_files_are_listed_newest_first_and_a_damaged_one_is_named(
    published: Path,
) -> None:
    with Follower(published).reader(Scope()) as reader:
        newest, before = data_health.snapshots(reader, published)
        assert (newest["file"], before["file"]) == (
            "snapshot-00000002.duckdb",
            "snapshot-00000001.duckdb",
        )
        assert (newest["load_id"], before["load_id"]) == (2, 1)
        assert newest["published_at"] == reader.published_at > before["published_at"]
        assert (newest["state"], before["state"]) == ("what readers get", "kept")
        assert newest["bytes"] == published.stat().st_size

        file = published.resolve().with_name(before["file"])
        file.chmod(0o640)
        file.write_bytes(b"no snapshot")
        _, damaged = data_health.snapshots(reader, published)
        assert damaged["state"].startswith("damaged: `warehouse reconcile --repair`")
        assert (damaged["load_id"], damaged["bytes"]) == (None, 11)


def test_a_copy_that_was_handed_out_is_the_only_snapshot(
    published: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "handed" / "copy.duckdb"
    copy.parent.mkdir()
    copy.write_bytes(published.read_bytes())
    with Follower(published).reader(Scope()) as reader:
        [only] = data_health.snapshots(reader, copy)
    assert (only["file"], only["load_id"]) == ("copy.duckdb", 2)


def test_the_last_run_of_each_kind_is_listed_newest_first(
    published: Path, warehouse: Warehouse
) -> None:
    with Follower(published).reader(Scope()) as reader:
        [publication] = data_health.runs(reader, warehouse.path)
        assert (publication["kind"], publication["outcome"]) == (
            "publication",
            "succeeded",
        )
        ended = {hour: datetime(2026, 3, 20, hour) for hour in (3, 4, 5)}
        failed = Run(ended[5], succeeded=False, failures=("v_kpi",), skipped=2)
        last_runs.note(warehouse.path, "check", Run(ended[3], succeeded=True))
        last_runs.note(warehouse.path, "refresh", failed)
        last_runs.note(warehouse.path, "reconcile", Run(ended[4], succeeded=False))
        assert [
            (row["kind"], row["ended_at"].hour, row["outcome"])
            for row in data_health.runs(reader, warehouse.path)
            if row != publication
        ] == [
            ("refresh", 5, "failed: v_kpi; 2 skipped because of that"),
            ("reconcile", 4, "could not run"),
            ("check", 3, "succeeded"),
        ]


def test_snapshots_and_runs_are_for_who_may_see_every_course(
    published: Path, warehouse: Warehouse
) -> None:
    with Follower(published).reader(Scope(("k1",))) as reader:
        for question, path in (
            (data_health.snapshots, published),
            (data_health.runs, warehouse.path),
        ):
            with pytest.raises(WarehouseError, match="every course"):
                question(reader, path)
