"""The file: its format's number, and what is said when its bytes are not as written."""

import hashlib
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from ingest.errors import WarehouseDamaged, WarehouseError, WarehouseLocked
from ingest.store import database, formats
from ingest.store.files import lock
from tests.support.builders import Warehouse, ping


def test_a_change_of_the_schema_raw_has_a_number_of_its_own() -> None:
    # Else an earlier version writes what a later one does not read: raise its number,
    # and write the migration.
    statements = re.sub(r"--.*|\s+", " ", database.raw_schema())
    found = hashlib.sha256(" ".join(statements.split()).encode()).hexdigest()[:16]
    assert (formats.FORMATS["raw"], found) == (3, "52c0f41562e0c070")


def test_a_new_file_has_the_number_of_its_format(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1")])
    assert warehouse.rows("from raw.format") == [(formats.FORMATS["raw"], "raw")]


def test_a_file_of_a_newer_version_is_left_as_it_is(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1")])
    warehouse.execute("update raw.format set number = number + 1")
    before = warehouse.path.read_bytes()
    for use in (
        lambda: warehouse.land([ping("e2")]),
        lambda: warehouse.rows("from raw.load"),
    ):
        with pytest.raises(WarehouseError, match="a newer version made it"):
            use()
    assert warehouse.path.read_bytes() == before


def use_all(path: Path, *, writing: bool) -> None:
    opened = database.open_for_writing if writing else database.open_for_reading
    with opened(path) as connection:
        names = connection.execute(
            "select schema_name, table_name from duckdb_tables()"
        ).fetchall()
        for name in names:
            connection.execute(
                f"select sum(hash(found)) from {database.sql_name(*name)} as found"
            ).fetchall()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """With a derived table, after what was landed."""
    warehouse = Warehouse(tmp_path_factory.mktemp("whole"))
    warehouse.land(
        ping(f"e{number}", user=f"u{number % 7}", position=number % 90)
        for number in range(2_000)
    )
    warehouse.execute(
        "create schema progress; create table progress.derived as "
        "select range, random()::varchar as text from range(100_000); checkpoint"
    )
    return warehouse


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_is_said_with_the_file_and_what_restores_it(
    whole: Warehouse, tmp_path: Path, seed: int
) -> None:
    content = bytearray(whole.path.read_bytes())
    rng = random.Random(seed)
    damaged = Warehouse(tmp_path)
    # From the third block on, all that is written is under a checksum.
    content[rng.randrange(12_288, len(content))] ^= 1 << rng.randrange(8)
    damaged.path.write_bytes(content)
    writing = seed % 2 == 0
    with pytest.raises(WarehouseDamaged) as raised:
        use_all(damaged.path, writing=writing)
    said = str(raised.value)
    assert said.startswith(f"{damaged.path}: damaged")
    assert "\n" not in said
    if "`raw` is whole: run `warehouse rebuild`" in said:
        # It drops what was derived.
        with duckdb.connect(str(damaged.path)) as connection:
            connection.execute("drop table progress.derived; checkpoint")
        use_all(damaged.path, writing=True)
    else:
        assert "`warehouse restore FOLDER`" in said


# Writes the warehouse anew three times. Between letting it go as a writer and taking it
# as a reader it leaves time for another to do the same.
REWRITER = """
import sys, time
from pathlib import Path
import duckdb
from ingest.store import database
connect = duckdb.connect
def slowly(*given, **more):
    if not given:
        time.sleep(0.3)
    return connect(*given, **more)
duckdb.connect = slowly
for _ in range(3):
    database.rewrite(Path(sys.argv[1]))
"""


def test_two_who_write_the_warehouse_anew_at_once_lose_nothing_that_lands(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e0")])
    rewriters = [
        subprocess.Popen([sys.executable, "-c", REWRITER, str(warehouse.path)])
        for _ in range(2)
    ]
    landed = 1
    while any(process.poll() is None for process in rewriters):
        warehouse.land([ping(f"e{landed}")])
        landed += 1
        time.sleep(1)  # else they hardly ever get their turn
    assert [process.returncode for process in rewriters] == [0, 0]
    assert landed > 1
    assert warehouse.value("select count(*) from raw.lms_event") == landed


def test_who_writes_it_anew_meanwhile_is_waited_for_and_then_named(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e0")])
    with (
        lock(database.replacing_lock(warehouse.path)),
        pytest.raises(WarehouseLocked, match="to write it anew; wait for it to end"),
    ):
        database.rewrite(warehouse.path, wait_sec=0.1)
