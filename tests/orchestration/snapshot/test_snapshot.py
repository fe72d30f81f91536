"""Readers are never blocked, and what they read is one state."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.errors import WarehouseError
from ingest.store import last_runs
from ingest.store.database import open_for_writing, transaction
from orchestration.derive import bookkeeping, dbt_project, dbt_runner
from orchestration.refresh import refresh
from orchestration.snapshot import content as snapshot_content
from orchestration.snapshot import snapshot
from serving.published import opened
from tests.support.builders import ALL_MODELS, Class, Warehouse, examples, ping, quiz
from tests.support.snapshot import is_as_the_warehouse

WAREHOUSE = Path(sys.executable).with_name("warehouse")

UNSOUND = """
update projections.prj_video_progress set max_position_sec = -1, load_id = {load_id}
where user_id = 'u1'
"""

# Each row is a pair that must agree in any one state.
AGREEING = """
select
    (select count(*) from raw.lms_event),
    (select sum(event_count) from monitoring.v_event_daily_stats),
    (select sum(total_events) from monitoring.v_user_activity),
    (select sum(accepted) from monitoring.v_load_outcome),
    (select count(*) from signals.lms_signal),
    (
        select coalesce(sum(
            video_completed_count + quiz_passed_count
            + step_completed_count + course_completed_count
        ), 0)
        from monitoring.v_signal_summary
    ),
    (
        select count(*) from progress.v_user_progress
        where video_completed = 1
    ),
    (
        select count(*) from signals.lms_signal
        where type = 'VIDEO_COMPLETED'
    ),
    (select load_id from published.snapshot),
    (select max(load_id) from raw.load)
"""

READER = f"""
import json, sys, time
from pathlib import Path
import duckdb
path, stop = sys.argv[1], Path(sys.argv[2])
seen = []
while True:
    is_last = stop.exists()
    with duckdb.connect(path, read_only=True) as connection:
        seen.append(connection.execute('''{AGREEING}''').fetchone())
    if is_last:
        break
    if len(seen) == 1:
        print("reading", flush=True)
    time.sleep(0.1)
print(json.dumps([[int(value) for value in row] for row in seen]))
"""


def published(warehouse: Warehouse, query: str) -> list[tuple[Any, ...]]:
    with opened(warehouse.path) as connection:
        return connection.execute(query).fetchall()


def refreshed(warehouse: Warehouse, *select: str) -> snapshot.Snapshot:
    """Refreshes without data tests, and publishes."""
    warehouse.refresh(select=select or ALL_MODELS)
    return snapshot.publish(warehouse.path)


def files_under(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.long
def test_a_reader_sees_one_state_through_many_refreshes(warehouse: Warehouse) -> None:
    warehouse.land_catalogue(Class("c1", has_video=1, has_quiz=1))
    warehouse.land([ping("e0", user_id="u0", position=95)])
    stop, refreshes = warehouse.folder / "stop", examples(8)
    first = refreshed(warehouse)
    with subprocess.Popen(
        [sys.executable, "-c", READER, first.path, str(stop)],
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == "reading\n"
        try:
            for number in range(1, 1 + refreshes):
                warehouse.land(
                    [
                        ping(
                            f"e{number}", user_id=f"u{number % 7}", position=90 + number
                        ),
                        quiz(f"q{number}", user_id=f"u{number % 5}"),
                        ping(
                            f"late{number}",
                            occurred_at=f"2026-0{1 + number % 3}-01T00:00:00Z",
                        ),
                    ]
                )
                # The views are as they were: a third of the time.
                assert refreshed(warehouse, "config.materialized:incremental").is_new
        finally:
            stop.touch()
        seen = json.loads(reader.stdout.read())
    assert reader.returncode == 0
    for (
        events,
        by_day,
        by_user,
        accepted,
        signals,
        counted,
        done,
        videos,
        at,
        last,
    ) in seen:
        assert events == by_day == by_user == accepted
        assert signals == counted
        assert done == videos
        assert at == last
    states = [row[8] for row in seen]
    assert states == sorted(states)
    assert len(set(states)) > refreshes // 2
    assert seen[-1][0] == 1 + refreshes * 3


@pytest.mark.long
def test_three_snapshots_are_kept_and_events_are_never_rewritten(
    warehouse: Warehouse,
) -> None:
    folder = warehouse.folder / "published"
    kept: dict[str, str] = {}
    for number in range(4):
        warehouse.land(
            [
                ping(f"a{number}", occurred_at="2026-01-31T23:59:59Z"),
                ping(f"b{number}", occurred_at="2026-02-01T00:00:00Z"),
            ]
        )
        refreshed(warehouse)
        events = {
            name: digest
            for name, digest in files_under(folder).items()
            if name.endswith(".parquet")
        }
        assert kept.items() <= events.items()
        assert len(events) == 2 * (number + 1)
        kept = events
    snapshots = sorted(path.name for path in folder.glob("warehouse/snapshot-*"))
    assert len(snapshots) == snapshot.SNAPSHOTS_KEPT
    assert {Path(name).parent.name for name in kept} == {"2026-01", "2026-02"}
    oldest = duckdb.connect(
        str(folder / "warehouse" / snapshots[0]), read_only=True
    ).execute("select count(*) from raw.lms_event")
    assert oldest.fetchall() == [(4,)]


def test_a_snapshot_that_takes_the_changes_is_as_one_that_is_written_whole(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.land_catalogue(Class("c1"), Class("c2"))
    warehouse.land([ping(f"e{n}", user=f"u{n % 7}", position=n) for n in range(50)])
    refreshed(warehouse)
    assert is_as_the_warehouse(warehouse) == 0

    # New learners and known ones, a late ping, a quiz that is failed, a broken line.
    warehouse.land(
        [
            ping("n1", user="new", position=95),
            ping("n2", user="u1", position=99, occurred_at="2020-01-01T00:00:00Z"),
            quiz("n3", user="u1", score=9),
            quiz("n4", user="u1", score=1),
            b"{broken",
        ]
    )
    refreshed(warehouse)
    assert is_as_the_warehouse(warehouse) == 1

    # A class more moves signals; a dead letter goes.
    warehouse.land_catalogue(
        Class("c1"), Class("c2"), Class("c3"), effective_from="2026-01-01"
    )
    warehouse.execute("delete from raw.dead_letter")
    refreshed(warehouse)
    assert is_as_the_warehouse(warehouse) == 2

    # Rows that no load changed, as a repair leaves them; one gone, one more.
    warehouse.execute(
        """
        update projections.prj_video_progress set max_position_sec = 1
        where user_id = 'u2';
        delete from projections.prj_class_activity where user_id = 'u3';
        insert into projections.prj_user_signal_total by name
        select * replace ('another' as user_id)
        from projections.prj_user_signal_total limit 1;
        update bookkeeping.watermark set consumed_at = now();
        """
    )
    assert snapshot.publish(warehouse.path).is_new
    assert is_as_the_warehouse(warehouse) == 3

    monkeypatch.setattr(snapshot_content, "_MOST_CHANGES", 3)
    warehouse.land([ping("last", user="u1")])
    refreshed(warehouse)
    assert is_as_the_warehouse(warehouse) == 0


class Recorded:
    """A connection that notes what it is asked."""

    asked: list[str]

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.asked = []

    def execute(self, sql: str, *values: Any) -> Any:
        self.asked.append(sql.lower())
        return self._connection.execute(sql, *values)


@pytest.mark.long
def test_views_that_nobody_edited_are_taken_from_the_snapshot_before(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = snapshot_content._finish  # noqa: SLF001
    recorded: list[Recorded] = []

    def noting(connection: duckdb.DuckDBPyConnection) -> None:
        recorded.append(Recorded(connection))
        finish(cast(duckdb.DuckDBPyConnection, recorded[-1]))

    def made_views() -> set[str]:
        """Every view that the last publication made or commented."""
        return {
            sql.split()[2 if sql.startswith("create view") else 3]
            for sql in recorded[-1].asked
            if sql.startswith(("create view", "comment on view"))
        }

    monkeypatch.setattr(snapshot_content, "_finish", noting)
    warehouse.land([ping("e1", position=95)])
    refreshed(warehouse)
    assert len(made_views()) > 20
    warehouse.land([ping("e2", position=99, user="u2")])
    refreshed(warehouse)
    assert made_views() == {'"_new_"."raw"."lms_event"'}

    edited = "create or replace view analytics.v_kpi as select 1 as another"
    warehouse.execute(f"{edited}; update bookkeeping.watermark set consumed_at = now()")
    assert snapshot.publish(warehouse.path).is_new
    assert published(warehouse, "from analytics.v_kpi") == [(1,)]


@pytest.mark.long
def test_an_event_that_is_gone_from_raw_leaves_an_orphan_in_the_next_snapshot(
    warehouse: Warehouse,
) -> None:
    warehouse.land_catalogue(Class("c1"))
    warehouse.land([ping("gone", user="u1", position=95), ping("e2", user="u2")])
    refreshed(warehouse)
    views_as_tables = published(
        warehouse,
        "select table_name from duckdb_tables() where schema_name = 'catalogue' "
        "or table_name like 'v\\_%' escape '\\' order by all",
    )
    assert [name for (name,) in views_as_tables] == [
        *("catalogue_class_version", "catalogue_course_version"),
        *("catalogue_snapshot", "v_orphan_signal"),
    ]
    assert published(warehouse, "from analytics.v_orphan_signal") == []
    warehouse.execute("delete from raw.lms_event where event_id = 'gone'")
    assert (
        "analytics.v_orphan_signal: other rows than the warehouse has"
        in snapshot.problems(warehouse.path)
    )
    warehouse.land([ping("e3", user="u2")])
    refreshed(warehouse)
    assert published(
        warehouse,
        "select user_id, type, missing_event_ids from analytics.v_orphan_signal "
        "where type = 'VIDEO_COMPLETED'",
    ) == [("u1", "VIDEO_COMPLETED", ["gone"])]
    [(share,)] = published(warehouse, "select orphan_share from analytics.v_kpi")
    assert share == 1


def test_what_is_of_a_learner_stands_together(warehouse: Warehouse) -> None:
    warehouse.land([ping(f"e{n}", user=f"u{n % 7}") for n in range(70)])
    refreshed(warehouse)
    [(file,)] = published(warehouse, "from published.event_file")
    path = warehouse.folder / "published" / "warehouse" / file
    users = pq.read_table(path, columns=["user_id"]).column("user_id").to_pylist()
    assert users == sorted(users)
    assert len({*users}) == 7
    for table in ("prj_class_activity", "prj_user_quarter_hour", "prj_video_watch"):
        rows = published(warehouse, f"select user_id from projections.{table}")
        assert len(rows) >= 7
        assert rows == sorted(rows)


@pytest.mark.long
def test_a_damaged_snapshot_is_replaced_by_one_that_is_written_whole(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping(f"e{n}", user=f"u{n}") for n in range(30_000)])
    path = Path(refreshed(warehouse).path).resolve()
    activity = "projections.prj_class_activity"
    with duckdb.connect(str(path), read_only=True) as connection:
        [[block]] = connection.execute(
            "select max(block_id) from pragma_storage_info($1) "
            "where column_name = 'user_id' and segment_type = 'VARCHAR'",
            [activity],
        ).fetchall()
    with path.open("rb+") as file:
        file.seek(3 * 4096 + block * 262_144 + 100_000)
        file.write(bytes(1000))
    with (
        duckdb.connect(str(path), read_only=True) as connection,
        pytest.raises(duckdb.Error, match="checksum"),
    ):
        connection.execute(f"select sum(hash(a)) from {activity} as a")
    warehouse.land([ping("new", user="u1")])

    refreshed(warehouse)

    assert is_as_the_warehouse(warehouse) == 0


@pytest.mark.long
def test_a_warehouse_with_the_bookkeeping_of_an_earlier_version_is_refreshed(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e1")])
    refresh(warehouse.path)
    warehouse.execute(
        """
        create table staging.consumed_load as
        select * exclude (row_key) from bookkeeping.watermark;
        create table staging.checked_load as from bookkeeping.checked_load;
        create table staging.refreshed as
        select * exclude (made) from bookkeeping.refreshed;
        drop schema bookkeeping cascade;
        delete from raw.format where part = 'bookkeeping';
        """
    )
    warehouse.land([ping("e2", user="u2")])

    assert refresh(warehouse.path).derivation.succeeded

    is_as_the_warehouse(warehouse)
    assert made_again(warehouse, "e3") == set()


@pytest.mark.long
def test_a_table_of_another_shape_is_written_anew(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1")])
    refreshed(warehouse)
    warehouse.execute(
        """
        alter table projections.prj_class_activity add column more integer;
        update bookkeeping.watermark set consumed_at = now();
        """
    )
    snapshot.publish(warehouse.path)
    assert is_as_the_warehouse(warehouse) == 0


def test_any_tool_reads_it_under_any_name(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1", position=95)])
    path = refreshed(warehouse).path
    with duckdb.connect() as connection:
        connection.execute(f"attach '{path}' as learning (read_only)")
        frame = connection.sql("from learning.progress.v_user_progress").df()
        activity = connection.sql("from learning.monitoring.v_user_activity").df()
    assert frame.to_dict("records")[0]["video_max_position_sec"] == 95
    assert activity["total_events"].tolist() == [1]


def test_a_failed_refresh_leaves_the_last_snapshot(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1")])
    assert refresh(warehouse.path).snapshot
    before = files_under(warehouse.folder / "published")
    warehouse.land([ping("e2", user_id="u2")])
    warehouse.execute(UNSOUND.format(load_id=99))

    failed = refresh(warehouse.path)

    assert failed.snapshot is None
    assert "prj_video_progress_key_and_conditions_hold" in {
        node.name for node in failed.derivation.failures
    }
    assert files_under(warehouse.folder / "published") == before
    assert published(warehouse, "select count(*) from raw.lms_event") == [(1,)]


def test_a_publication_that_failed_is_noted_until_one_succeeds(
    warehouse: Warehouse,
) -> None:
    in_the_way = warehouse.folder / "published"
    in_the_way.touch()
    with pytest.raises(WarehouseError, match="cannot be published"):
        snapshot.publish(warehouse.path)
    failed = last_runs.read(warehouse.path)["publication"]
    in_the_way.unlink()
    snapshot.publish(warehouse.path)

    assert not failed.succeeded
    assert last_runs.read(warehouse.path)["publication"].succeeded


def test_with_nothing_new_nothing_is_written(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1")])
    first = refresh(warehouse.path)
    before = when_written(warehouse)

    again = refresh(warehouse.path)

    assert not first.derivation.nothing_new
    assert again.derivation.nothing_new
    assert again.snapshot
    assert not again.snapshot.is_new
    assert when_written(warehouse) == before


def when_written(warehouse: Warehouse) -> dict[Path, int]:
    """Of each file, but for the note that a run has ended."""
    return {
        file: file.stat().st_mtime_ns
        for file in warehouse.folder.rglob("*")
        if ".last-runs" not in file.suffixes and file != warehouse.folder
    }


def made_again(warehouse: Warehouse, event_id: str = "e2") -> set[str]:
    """What the refresh of one more event makes, other than tables and tests."""
    warehouse.land([ping(event_id, user="u2", position=95)])
    derivation = refresh(warehouse.path).derivation
    assert derivation.succeeded
    [[users]] = warehouse.rows("select count(*) from progress.v_user_progress")
    assert users == 2
    tables = {
        f"model.lms_warehouse.{name}"
        for [name] in warehouse.rows("select model from bookkeeping.watermark")
    }
    made = {
        node.unique_id
        for node in derivation.nodes
        if node.resource_type in ("model", "seed")
    }
    assert tables <= made
    return made - tables


@pytest.mark.long
def test_views_and_seeds_that_nobody_edited_are_not_made_again(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e1")])
    first = refresh(warehouse.path).derivation

    assert made_again(warehouse) == set()

    # What they give is tested all the same; seeds alone are as they were.
    warehouse.land([ping("e3", user="u3")])
    again = refresh(warehouse.path).derivation
    assert data_tests_of(first) - data_tests_of(again) == {
        "event_type_has_a_unique_key",
        *(
            f"{seed.split('.')[1]}_key_and_conditions_hold"
            for seed in dbt_project.seeds()
            if seed != "staging.event_type"
        ),
    }
    assert "v_load_outcome_key_and_conditions_hold" in data_tests_of(again)


def data_tests_of(derivation: dbt_runner.Derivation) -> set[str]:
    return {node.name for node in derivation.nodes if node.resource_type == "test"}


@pytest.mark.long
def test_views_and_seeds_are_made_again_when_one_is_not_as_it_was_made(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e1")])
    refresh(warehouse.path)
    edition = bookkeeping.project_fingerprint(dbt_project.files())
    with open_for_writing(warehouse.path) as connection:
        leaderboard = connection.execute(LEADERBOARD_SQL).fetchall()
        assert bookkeeping.views_are_unchanged(connection, edition)
        for edit in (
            "create or replace view monitoring.v_leaderboard as select 1 as user_id",
            "drop view monitoring.v_leaderboard",
            "update signals.signal_type set xp = 1000",
            "drop table signals.signal_type",
            "update analytics.threshold set value = 1",
            "alter table raw.load add column more integer",
            "update bookkeeping.refreshed set project = 'of yesterday'",
        ):
            with transaction(connection, dry_run=True):
                connection.execute(edit)
                assert not bookkeeping.views_are_unchanged(connection, edition), edit
        assert bookkeeping.views_are_unchanged(connection, edition)
        connection.execute("drop view monitoring.v_leaderboard")
        connection.execute("update signals.signal_type set xp = 1000")

    made = made_again(warehouse)

    assert {
        *("model.lms_warehouse.v_leaderboard.v1", "model.lms_warehouse.stg_event"),
        *("seed.lms_warehouse.signal_type", "seed.lms_warehouse.event_type"),
    } < made
    assert warehouse.rows(LEADERBOARD_SQL) == leaderboard
    assert warehouse.rows("select max(xp) from signals.signal_type") < [(1000,)]


LEADERBOARD_SQL = "select sql from duckdb_views() where view_name = 'v_leaderboard'"


@pytest.mark.long
def test_what_came_while_it_was_derived_is_left_to_the_next(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e1")])
    warehouse.refresh()
    warehouse.land([ping("e2")])

    assert snapshot.publish(warehouse.path).events == 1
    assert published(warehouse, "select count(*) from raw.load") == [(1,)]
    assert refreshed(warehouse).events == 1
    assert published(warehouse, "select event_id from raw.lms_event order by all") == [
        ("e1",),
        ("e2",),
    ]


@pytest.mark.long
def test_another_warehouse_in_the_same_place_starts_over(warehouse: Warehouse) -> None:
    warehouse.land([ping("of the first")])
    refreshed(warehouse)
    warehouse.path.unlink()
    warehouse.land([ping("of the second", user_id="u2")])

    refreshed(warehouse)

    assert published(warehouse, "select event_id from raw.lms_event") == [
        ("of the second",)
    ]
    [events] = (warehouse.folder / "published" / "warehouse").glob("events-*/*/*")
    assert b"of the first" not in events.read_bytes()


@pytest.mark.long
def test_what_a_killed_publication_left_goes(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1")])
    refreshed(warehouse)
    own = warehouse.folder / "published" / "warehouse"
    [events] = own.glob("events-*/*")
    (events / ".load-2-2.parquet.unfinished").write_text("half")
    (events / "load-2-2.parquet").write_text("of no snapshot")
    (own / ".snapshot-00000002.duckdb.unfinished").write_text("half")
    (own / ".spill").mkdir()
    (own / ".spill" / "duckdb_temp_storage-0.tmp").write_text("of learners")
    warehouse.land([ping("e2")])

    refreshed(warehouse)

    assert published(warehouse, "select count(*) from raw.lms_event") == [(2,)]
    names = {file.name for file in own.rglob("*") if file.is_file()}
    assert names == {
        *("lock", "snapshot-00000001.duckdb", "snapshot-00000002.duckdb"),
        *("load-1-1.parquet", "load-2-2.parquet"),
    }


# --------------------------------------------------------------------------------------
# What the tests of a refresh look at
# --------------------------------------------------------------------------------------


def sql_of_a_check(derivation: dbt_runner.Derivation) -> str:
    [node] = [
        node
        for node in derivation.nodes
        if node.name == "prj_video_progress_key_and_conditions_hold"
    ]
    return node.compiled_code or ""


@pytest.mark.long
def test_a_refresh_tests_what_changed_a_check_or_a_rebuild_everything(
    warehouse: Warehouse,
) -> None:
    warehouse.land([ping("e1", user_id="u1"), ping("e2", user_id="u2")])
    assert dbt_runner.derive(warehouse.path).succeeded
    warehouse.execute(UNSOUND.format(load_id=1))
    warehouse.land([ping("e3", user_id="u2")])

    assert dbt_runner.derive(warehouse.path).succeeded
    [old] = dbt_runner.check(warehouse.path).failures[:1]
    assert old.name == "prj_video_progress_key_and_conditions_hold"
    warehouse.execute(UNSOUND.format(load_id=3))
    failed = dbt_runner.derive(warehouse.path)
    assert "prj_video_progress_key_and_conditions_hold" in {
        n.name for n in failed.failures
    }
    # What failed is looked at again, until it is mended.
    failed = dbt_runner.derive(warehouse.path)
    assert "prj_video_progress_key_and_conditions_hold" in {
        n.name for n in failed.failures
    }
    assert "load_id > 2" in sql_of_a_check(failed)
    noted = last_runs.read(warehouse.path)
    assert noted["refresh"].failures == tuple(node.name for node in failed.failures)
    assert not noted["refresh"].succeeded
    assert old.name in noted["check"].failures
    rebuilt = dbt_runner.derive(warehouse.path, rebuild=True)
    assert rebuilt.succeeded
    assert last_runs.read(warehouse.path)["refresh"].succeeded
    assert "load_id >" not in sql_of_a_check(rebuilt)


# --------------------------------------------------------------------------------------
# The commands
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("commands")
    warehouse = Warehouse(path)
    warehouse.land([ping("e1", position=95), ping("e2", user_id="[u2]")])
    refreshed(warehouse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMS_WAREHOUSE", str(warehouse.path))
        yield path


def command(
    folder: Path, *arguments: str, typed: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(WAREHOUSE), *arguments],
        text=True,
        capture_output=True,
        check=False,
        cwd=folder,
        input=typed,
    )


def test_a_question_is_answered_while_the_warehouse_is_written(folder: Path) -> None:
    with duckdb.connect(str(folder / "warehouse.duckdb")):
        asked = command(
            folder, "query", "--json", "select count(*) as n from raw.lms_event"
        )
    assert json.loads(asked.stdout) == [{"n": 2}]


def test_the_live_warehouse_can_be_asked_too(folder: Path) -> None:
    asked = command(
        folder, "query", "--live", "--json", "select count(*) as n from raw.tombstone"
    )
    assert json.loads(asked.stdout) == [{"n": 0}]


def test_a_shell_answers_what_comes_from_a_pipe(folder: Path) -> None:
    asked = command(
        folder,
        "shell",
        typed=".describe progress.v_user_progress\nselect user_id\n"
        "from progress.v_user_progress\norder by all;\nselect 41 + 1 as answer",
    )
    assert asked.returncode == 0, asked.stderr
    for text in ("video_max_position_sec", "[u2]", "42"):
        assert text in asked.stdout

    wrong = command(folder, "shell", typed="select nope;\nselect 1;")
    assert wrong.returncode == 1
    assert "nope" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("form", ["parquet", "csv", "arrow"])
def test_a_table_is_exported(folder: Path, form: str) -> None:
    written = command(
        folder, "export", "progress.v_user_progress", "--format", form, "--json"
    )
    assert written.returncode == 0, written.stderr
    path = folder / json.loads(written.stdout)["path"]
    if form == "arrow":
        with pa.memory_map(str(path)) as file:
            rows = pa.ipc.open_file(file).read_all().to_pylist()
    else:
        rows = duckdb.connect().sql(f"from '{path}'").df().to_dict("records")
    assert sorted(row["user_id"] for row in rows) == ["[u2]", "u1"]
    assert list(rows[0])[:3] == ["user_id", "class_id", "course_id"]


def test_a_table_that_is_not_there_is_named_with_one_that_is(folder: Path) -> None:
    failed = command(folder, "export", "progress.v_user_progres")
    assert failed.returncode == 1
    assert "did you mean progress.v_user_progress" in failed.stderr
    assert list(folder.glob("*.unfinished")) == []


def test_before_anything_is_published_the_way_is_told(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    with (
        pytest.raises(WarehouseError, match="run `warehouse refresh`"),
        opened(warehouse.path),
    ):
        pass
    warehouse.land([ping("e1")])
    with pytest.raises(WarehouseError, match="nothing was derived yet"):
        snapshot.publish(warehouse.path)


def test_descriptions_go_with_the_snapshot_and_with_what_is_exported(
    folder: Path,
) -> None:
    learner = "The learner, as the LMS names them: an opaque id."
    with duckdb.connect(
        str(folder / "published/warehouse.duckdb"), read_only=True
    ) as client:
        without = client.execute(
            """
            select schema_name, table_name, column_name from duckdb_columns()
            where not internal and comment is null and schema_name != 'published'
            """
        ).fetchall()
        assert without == []
        [[meaning]] = client.execute(
            "select comment from duckdb_views() where view_name = 'v_user_progress'"
        ).fetchall()
    assert meaning.startswith("One row per learner and class")
    for form in ("parquet", "arrow"):
        output = folder / f"described.{form}"
        arguments = ("progress.v_user_progress", "--format", form)
        command(folder, "export", *arguments, "--output", str(output))
    found = pq.read_schema(folder / "described.parquet").metadata
    assert found[b"description"].decode() == meaning
    assert json.loads(found[b"columns"])["user_id"] == learner
    with pa.memory_map(str(folder / "described.arrow")) as file:
        schema = pa.ipc.open_file(file).schema
    assert schema.metadata[b"description"].decode() == meaning
    assert schema.field("user_id").metadata[b"description"].decode() == learner
