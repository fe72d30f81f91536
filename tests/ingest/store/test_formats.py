"""Warehouses that earlier states of the project made: carried over, or refused.

tests/fixtures/formats/README.md says how they were made.
"""

import gzip
import re
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ingest.errors import WarehouseError
from ingest.spool import file as spool_file
from ingest.store import conservation, database, formats
from ingest.store.database import open_for_reading, open_for_writing
from orchestration.derive import bookkeeping
from orchestration.outbox import outbox
from orchestration.snapshot import snapshot
from serving import published
from tests.support.builders import (
    Warehouse,
    assert_same_state,
    ping,
    warehouse_again,
    write_lines,
)
from tests.support.snapshot import publish_without_dbt

FIXTURES = Path(__file__).parents[2] / "fixtures" / "formats"
EARLIER = sorted(path.name for path in FIXTURES.glob("*.duckdb.gz"))


def unpacked(name: str, folder: Path) -> Warehouse:
    warehouse = Warehouse(folder)
    with gzip.open(FIXTURES / name) as packed, warehouse.path.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return warehouse


def columns(connection: duckdb.DuckDBPyConnection, schema: str) -> set[Any]:
    return set(
        connection.execute(
            "select table_name, column_name, data_type, is_nullable "
            "from duckdb_columns() where schema_name = $1 "
            "and database_name = current_database()",
            [schema],
        ).fetchall()
    )


def test_each_format_that_raw_ever_had_has_a_file() -> None:
    numbers = {int(re.findall(r"-format(\d+)\.", name)[0]) for name in EARLIER}
    assert numbers == set(range(1, formats.FORMATS["raw"]))
    assert set(formats.raw_migrations()) == set(range(2, formats.FORMATS["raw"] + 1))


@pytest.mark.parametrize("name", EARLIER)
def test_a_file_of_an_earlier_format_becomes_what_a_new_one_is_and_keeps_its_rows(
    name: str, tmp_path: Path
) -> None:
    warehouse = unpacked(name, tmp_path)
    with duckdb.connect(str(warehouse.path), read_only=True) as connection:
        lines = "select event_id, line, load_id from raw.lms_event order by all"
        before = connection.execute(lines).fetchall()
        letters = connection.execute("select count(*) from raw.dead_letter").fetchall()
    (tmp_path / "new").mkdir()
    new = Warehouse(tmp_path / "new")
    new.land([ping("e1")])
    with open_for_reading(new.path) as connection:
        expected = columns(connection, "raw")

    with open_for_reading(warehouse.path) as connection:
        found = columns(connection, "raw")
        assert {each[:3] for each in found} == {each[:3] for each in expected}
        assert formats.numbers(connection)["raw"] == formats.FORMATS["raw"]
        assert connection.execute(lines).fetchall() == before
        assert len(before) == 4
        assert (
            connection.execute("select count(*) from raw.dead_letter").fetchall()
            == letters
        )
        assert conservation.broken_loads(connection) == []
    with outbox.opened(warehouse.path) as connection:
        assert formats.numbers(connection)["outbox"] == formats.FORMATS["outbox"]
        [[watermarks, events]] = connection.execute(
            "select (select count(*) from outbox.watermark), "
            "(select count(*) from outbox.integration_event)"
        ).fetchall()
        assert (watermarks, events) == (1, 6)
    assert warehouse.land([ping("e1")]).conflict == 1


def test_a_file_of_the_first_layout_gets_what_it_lacks(tmp_path: Path) -> None:
    warehouse = unpacked("c7192f6-format1.duckdb.gz", tmp_path)
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute(
            """
            drop table raw.retried_letter;
            drop table raw.discarded_letter;
            drop table raw.set_aside_event;
            drop table raw.tombstone;
            alter table raw.load drop column erased;
            alter table raw.load drop column file_mtime_ns;
            """
        )
    (tmp_path / "new").mkdir()
    new = Warehouse(tmp_path / "new")
    new.land([ping("e1")])
    with open_for_reading(new.path) as connection:
        expected = columns(connection, "raw")

    assert warehouse.land([ping("first"), ping("first"), b"{"]).accepted == 1

    with open_for_reading(warehouse.path) as connection:
        found = columns(connection, "raw")
        assert {each[:3] for each in found} == {each[:3] for each in expected}
        assert conservation.broken_loads(connection) == []


def tables(path: Path) -> set[str]:
    with duckdb.connect(str(path), read_only=True) as connection:
        found = connection.execute("select sql from duckdb_tables()").fetchall()
    return {sql for (sql,) in found}


@pytest.mark.parametrize("broken", range(2, formats.FORMATS["raw"] + 1))
def test_a_migration_that_is_interrupted_leaves_the_format_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    warehouse = unpacked(EARLIER[0], tmp_path)
    migrations = formats.raw_migrations()
    states = {1: tables(warehouse.path)}
    with monkeypatch.context() as patch:
        interrupted = {
            **migrations,
            broken: f"{migrations[broken]}; select error('killed here')",
        }
        patch.setattr(formats, "raw_migrations", lambda: interrupted)
        with pytest.raises(duckdb.Error, match="killed here"):
            warehouse.execute("select 1")
    with duckdb.connect(str(warehouse.path)) as connection:
        assert formats.numbers(connection).get("raw", 1) == broken - 1
    if broken == 2:
        assert tables(warehouse.path) == states[1]
    warehouse.execute("select 1")
    with open_for_reading(warehouse.path) as connection:
        assert formats.numbers(connection)["raw"] == formats.FORMATS["raw"]


@pytest.mark.long
@pytest.mark.parametrize("name", EARLIER)
def test_what_is_derived_in_a_file_of_an_earlier_format_is_as_built_anew(
    dbt: None, name: str, derived_folder: Path
) -> None:
    warehouse = unpacked(name, warehouse_again(derived_folder).folder)
    warehouse.refresh()
    carried_over = warehouse.state()
    warehouse.rebuild()
    assert_same_state(carried_over, warehouse.state())
    assert len(carried_over["progress.v_user_progress"]) == 3


@pytest.mark.parametrize("part", ["raw", "outbox", "bookkeeping", "unheard_of"])
def test_a_file_of_which_any_part_is_newer_is_refused_and_left_as_it_is(
    warehouse: Warehouse, part: str
) -> None:
    warehouse.land([ping("e1")])
    with open_for_writing(warehouse.path) as connection:
        bookkeeping.carry_over(connection)
        formats.note(connection, part, formats.FORMATS.get(part, 0) + 1)
    before = warehouse.path.read_bytes()
    for use in (
        lambda: warehouse.rows("select 1"),
        lambda: warehouse.execute("select 1"),
        lambda: database.hold(warehouse.path, {}),
    ):
        with pytest.raises(WarehouseError, match=f"newer version made it .*'{part}'"):
            use()
    assert warehouse.path.read_bytes() == before


def test_a_newer_snapshot_is_refused_by_readers_and_written_anew(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e1")])
    path = publish_without_dbt(warehouse)
    path.resolve().chmod(0o600)
    with duckdb.connect(str(path.resolve())) as connection:
        connection.execute("update published.snapshot set format = format + 1")

    with (
        pytest.raises(WarehouseError, match="a newer version published it"),
        published.opened(warehouse.path),
    ):
        pass

    assert snapshot.publish(warehouse.path).is_new
    with published.opened(warehouse.path) as connection:
        assert connection.execute("from raw.lms_event").fetchall()


def test_a_file_of_a_newer_spool_is_left_for_the_version_that_wrote_it(
    tmp_path: Path,
) -> None:
    newer = spool_file.FORMAT + 1
    for name in ("a.ndjson", f"b.v{newer - 1}.ndjson", f"c.v{newer}.ndjson"):
        write_lines(tmp_path / f"{name}.part", [ping("e1")])
        spool_file.recover(tmp_path / f"{name}.part", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.ndjson",
        f"b.v{newer - 1}.ndjson",
        f"c.v{newer}.ndjson.part",
    ]
