"""A question reads the snapshot, and nothing else; what is written is a new file."""

import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from ingest.errors import WarehouseError
from ingest.landing import dead_letters
from orchestration.snapshot import snapshot
from serving import LmsWarehouse, published, query
from serving.access import Scope
from serving.reader import Follower
from tests.support.builders import Warehouse, ping
from tests.support.snapshot import publish_without_dbt

# Each would read or write another file.
FORBIDDEN = [
    "from read_text('{other}')",
    "from '{other}'",
    "from glob('{folder}/*')",
    "copy raw.load to '{new}'",
    "copy (pivot raw.load on kind using count(*)) to '{new}'",
    "select 1; copy raw.load to '{new}'",
    "explain analyze copy raw.load to '{new}'",
    "explain (analyze) copy raw.load to '{new}'",
    "/* a */ explain /* b */ analyze copy raw.load to '{new}'",
    "explain analyze copy (pivot raw.load on kind using count(*)) to '{new}'",
    "prepare p as copy raw.load to '{new}'",
    "export database '{new}'",
    "attach '{new}' as new",
    "copy from database memory to memory",
    "install httpfs",
    "set enable_external_access = true",
    "set temp_directory = '{new}'",
    "pragma enable_profiling = 'json'; set profiling_output = '{new}'",
]
HARMLESS = [
    "select count(*) from raw.lms_event",
    "from progress.v_example",
    "pivot raw.load on kind using count(*)",
    "describe raw.load",
    "summarize raw.load",
    "show all tables",
    "explain select 1",
    "explain analyze select count(*) from raw.lms_event",
    "set variable now = '2026-03-12'; select getvariable('now')",
    "create temp table mine as select 1 as one; from mine",
    "with loads as (from raw.load) from loads",
    "call pragma_version()",
    "(select 1)",
]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    made = Warehouse(tmp_path_factory.mktemp("published"))
    made.land([ping("e1"), ping("e2", user_id="u2", at="2026-02-10T10:00:00Z")])
    publish_without_dbt(made)
    return made


@pytest.fixture(params=["published", "live", "followed"])
def reader(
    request: pytest.FixtureRequest, warehouse: Warehouse
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The published snapshot, the warehouse itself, and what the dashboard reads."""
    with contextlib.ExitStack() as opened:
        if request.param == "followed":
            follower = Follower(published.snapshot_path(warehouse.path))
            yield opened.enter_context(follower.reader(Scope())).connection
        elif request.param == "published":
            yield opened.enter_context(published.opened(warehouse.path))
        else:
            yield opened.enter_context(query.opened_live(warehouse.path))


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_a_question_reads_no_other_file_and_writes_none(
    reader: duckdb.DuckDBPyConnection, warehouse: Warehouse, sql: str
) -> None:
    other = warehouse.folder / "secret.csv"
    other.write_text("name\nsecret\n")
    [events] = (warehouse.folder / "published" / "warehouse").glob("events-*")
    for folder in (warehouse.folder, events):
        before = sorted(folder.rglob("*"))
        new = folder / "new"
        with pytest.raises(WarehouseError) as error:
            query.ask(reader, sql.format(other=other, folder=warehouse.folder, new=new))
        assert "\n" not in str(error.value)
        assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_writes_no_file_is_answered(
    warehouse: Warehouse, sql: str, tmp_path: Path
) -> None:
    with published.opened(warehouse.path) as connection:
        assert query.ask(connection, sql).rows
    with contextlib.chdir(tmp_path):
        assert not LmsWarehouse(warehouse.path).query(sql).empty
    assert list(tmp_path.iterdir()) == []


def test_python_reads_no_other_file_either(warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseError, match="disabled by configuration"):
        LmsWarehouse(warehouse.path).query("from read_text($1)", ["/etc/hostname"])
    with pytest.raises(WarehouseError, match="a question only reads"):
        LmsWarehouse(warehouse.path).query(f"copy raw.load to '{warehouse.folder}/x'")


def test_a_reader_leaves_other_connections_of_its_process_alone(
    warehouse: Warehouse,
) -> None:
    path = str(published.snapshot_path(warehouse.path))
    with duckdb.connect(path, read_only=True) as own:
        assert len(LmsWarehouse(warehouse.path).query("from raw.lms_event")) == 2
        own.execute("set timezone = 'Europe/Berlin'")
        assert own.execute("from read_text('/etc/hostname')").fetchall()


def test_times_are_in_utc_for_every_reader(
    reader: duckdb.DuckDBPyConnection,
) -> None:
    assert query.ask(reader, "select current_setting('timezone')").rows == (("UTC",),)


@pytest.mark.parametrize(
    "place",
    [
        "warehouse.duckdb",
        "warehouse.duckdb.wal",
        "published/warehouse.duckdb",
        "published/warehouse/x.csv",
        "landing/events/x.ndjson",
        "spool/x",
        "outbox/cloudevents/x",
        "a-database",
        "a-link",
        "a-folder",
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet", "json", "arrow"])
def test_an_export_goes_over_no_database_and_into_no_folder_of_ours(
    warehouse: Warehouse, place: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = warehouse.folder
    monkeypatch.setenv("LMS_LANDING", str(folder / "landing"))
    for name in ("landing/events", "spool", "outbox/cloudevents", "a-folder"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "a-database").unlink(missing_ok=True)
    duckdb.connect(str(folder / "a-database")).close()
    (folder / "a-link").unlink(missing_ok=True)
    (folder / "a-link").symlink_to("warehouse.duckdb")
    before = {
        path: path.read_bytes() for path in folder.rglob("*") if not path.is_dir()
    }
    with pytest.raises(WarehouseError, match="give another path"):
        query.export(warehouse.path, "raw.load", form, folder / place)
    assert before == {
        path: path.read_bytes() for path in folder.rglob("*") if not path.is_dir()
    }


@pytest.mark.parametrize("form", ["csv", "parquet", "json", "arrow"])
def test_an_export_takes_the_place_of_an_earlier_one(
    warehouse: Warehouse, form: str, tmp_path: Path
) -> None:
    file = tmp_path / f"it's an export.{form}"
    file.write_text("an earlier one")
    file.with_name(f".{file.name}.unfinished").write_text("of a killed one")
    assert query.export(warehouse.path, "raw.lms_event", form, file).rows == 2
    assert b"an earlier one" not in file.read_bytes()
    assert list(tmp_path.iterdir()) == [file]


def test_dead_letters_go_over_no_database_either(warehouse: Warehouse) -> None:
    for place in ("warehouse.duckdb.wal", "published/x.ndjson"):
        with pytest.raises(WarehouseError, match="give another path"):
            dead_letters.export(warehouse.path, warehouse.folder / place)


def test_what_is_published_cannot_be_written(warehouse: Warehouse) -> None:
    files = [
        file
        for file in (warehouse.folder / "published" / "warehouse").rglob("*")
        if file.suffix in (".duckdb", ".parquet")
    ]
    assert len(files) >= 3
    assert {file.stat().st_mode & 0o333 for file in files} == {0}


def test_a_snapshot_that_is_open_for_writing_names_who_has_it(
    tmp_path: Path,
) -> None:
    made = Warehouse(tmp_path)
    made.land([ping("e1")])
    path = publish_without_dbt(made)
    with held(path.resolve()) as holder:
        with pytest.raises(WarehouseError, match=rf"PID {holder.pid}\b") as error:
            LmsWarehouse(made.path).query("from raw.lms_event")
        assert "remove" not in str(error.value)
        # What it says to do helps: readers get another file.
        publish_without_dbt(made)
        assert len(LmsWarehouse(made.path).query("from raw.lms_event")) == 1


@contextlib.contextmanager
def held(path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A tool that has opened the file for writing."""
    program = (
        "import duckdb, sys; connection = duckdb.connect(sys.argv[1]); "
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        yield holder
    finally:
        holder.kill()
        holder.wait()


def parquet_files(warehouse: Warehouse) -> list[Path]:
    return sorted((warehouse.folder / "published").rglob("*.parquet"))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_in_what_is_published_is_noticed_and_mended(
    tmp_path: Path, seed: int
) -> None:
    made = Warehouse(tmp_path)
    made.land(
        ping(
            f"e{number}",
            user=f"u{number % 9}",
            at=f"2026-0{1 + number % 3}-10T10:00:00Z",
        )
        for number in range(300)
    )
    current = publish_without_dbt(made)
    assert snapshot.problems(made.path) == []
    rng = random.Random(seed)
    file = rng.choice([current.resolve(), *parquet_files(made)])
    content = bytearray(file.read_bytes())
    # Not in Parquet's first and last bytes, which say how to read the rest.
    first = 12_288 if file == current.resolve() else 4
    content[rng.randrange(first, len(content))] ^= 1 << rng.randrange(8)
    file.chmod(0o640)
    file.write_bytes(content)
    problems = snapshot.problems(made.path)
    if not problems:  # a byte that no value depends on
        assert len(LmsWarehouse(made.path).query("from raw.lms_event")) == 300
        return
    if file.suffix == ".parquet":
        assert str(file) in problems[0]
    snapshot.publish(made.path, start_over=True)
    assert snapshot.problems(made.path) == []
    assert len(LmsWarehouse(made.path).query("from raw.lms_event")) == 300


def test_a_published_file_that_is_gone_is_noticed(tmp_path: Path) -> None:
    made = Warehouse(tmp_path)
    made.land([ping("e1")])
    publish_without_dbt(made)
    [file] = parquet_files(made)
    file.unlink()
    assert snapshot.problems(made.path) == [f"{file}: is gone"]


def test_rows_that_somebody_changed_in_a_snapshot_are_noticed(tmp_path: Path) -> None:
    made = Warehouse(tmp_path)
    made.land([ping("e1")])
    current = publish_without_dbt(made)
    with duckdb.connect(str(current.resolve())) as tool:
        tool.execute("update projections.prj_example set event_count = 7")
    [problem] = snapshot.problems(made.path)
    assert problem == "projections.prj_example: other rows than the warehouse has"
