"""Reconcile: whatever disagrees with raw is found and named, and repaired where it can.

And a projection that fails: it says over whom, holds up no other, and catches up.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import pytest
from typer.testing import CliRunner

from ingest.landing import dead_letters
from ingest.landing.dead_letters import Selection
from ingest.landing.lines import sha256_of
from ingest.store import last_runs
from orchestration.cli import app
from orchestration.derive import dbt_runner
from orchestration.shadow.reconcile import Reconciliation, reconcile
from orchestration.snapshot import snapshot
from tests.support.builders import (
    RECEIVED_AT,
    Class,
    Warehouse,
    assert_same_state,
    ping,
    quiz,
)
from tests.support.earlier_loader import land_before


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where dbt works: another path would be parsed anew, which takes a second."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def warehouse(place: Path, derived: Path) -> Iterator[Warehouse]:
    """What `derived` describes, to do with as one likes."""
    yield put(derived, place)
    for file in place.iterdir():
        file.unlink()


def put(file: Path, place: Path) -> Warehouse:
    warehouse = Warehouse(place)
    shutil.copy(file, warehouse.path)
    return warehouse


def refresh(warehouse: Warehouse, *, rebuild: bool = False) -> dict[str, str]:
    """As the command does, without tests; what failed, each with its message."""
    quickly = {"DBT_INDIRECT_SELECTION": "empty", "DBT_WRITE_JSON": "false"}
    with mock.patch.dict(os.environ, quickly):
        derivation = dbt_runner.derive(
            warehouse.path,
            rebuild=rebuild,
            select=("resource_type:model", "resource_type:seed"),
        )
    return {node.name: node.message or "" for node in derivation.failures}


@pytest.fixture(scope="module")
def derived(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse refreshed after two files, a retry and a discard.

    u1 completes course k1 with a line that was dead at first, u2 does half of it, u3's
    video is complete. Loads: 1 the catalogue, 2 and 3 files, 4 the retry.
    """
    warehouse = Warehouse(place)
    warehouse.land_catalogue(
        Class("c1", has_quiz=1), Class("c2"), Class("c3", course_id="k2", has_video=0)
    )
    land_before(warehouse, b"{", ping("u1c2", position=95, user="u1", in_class="c2"))
    warehouse.land(
        [
            ping("u1c1", position=95, user="u1"),
            quiz("u1q1", user="u1"),
            ping("u2c1", position=50, user="u2"),
            quiz("u2q1", user="u2", score=3, passed=False),
            ping("u3c2", position=99, user="u3", in_class="c2"),
            b"not JSON",
        ]
    )
    dead_letters.retry(warehouse.path, now=RECEIVED_AT)
    dead_letters.discard(
        warehouse.path, Selection(load_ids=(2,)), by="ana", why="cut short"
    )
    assert refresh(warehouse) == {}
    kept = tmp_path_factory.mktemp("derived") / "warehouse.duckdb"
    shutil.move(warehouse.path, kept)
    return kept


def test_a_retried_line_is_derived_from_as_any_other(warehouse: Warehouse) -> None:
    assert warehouse.rows(
        "select user_id, load_id, source_event_ids from signals.lms_signal "
        "where type = 'COURSE_COMPLETED'"
    ) == [("u1", 4, ["u1c1", "u1c2", "u1q1"])]
    # A row for the retry; it reads no new lines.
    assert warehouse.rows(
        "select load_id, kind, lines_read, accepted, lines_unaccounted "
        "from monitoring.v_load_outcome order by all"
    ) == [(2, "events", 2, 0, 0), (3, "events", 6, 5, 0), (4, "retry", 3, 1, 0)]
    assert warehouse.value(
        "select sum(accepted) from monitoring.v_load_outcome"
    ) == warehouse.value("select count(*) from raw.lms_event")


def command(warehouse: Warehouse, *arguments: str) -> Any:
    with mock.patch.dict(os.environ, LMS_WAREHOUSE=str(warehouse.path)):
        return CliRunner().invoke(app, ["reconcile", *arguments])


def test_a_sound_warehouse_agrees_and_not_a_byte_of_it_changes(
    warehouse: Warehouse,
) -> None:
    # Landed and not yet derived from: to be behind is no error.
    warehouse.land([ping("late", user="u2")])
    before = sha256_of(warehouse.path)
    files = set(warehouse.folder.iterdir())

    result = command(warehouse, "--json")

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["agrees"], found["problems"]) == (True, [])
    assert sha256_of(warehouse.path) == before
    # Beside it, how the run ended is noted.
    new = set(warehouse.folder.iterdir()) - files
    assert {file.suffixes[-2] for file in new} == {".last-runs"}
    for table in found["tables"]:
        assert table["live_hash"] == table["derived_hash"]
        assert table["load_id"] == 4
    assert len(found["tables"]) >= 9
    assert found["notes"][0].startswith(
        "prj_active_day is at load 4: 1 load with 1 event behind"
    )
    lines = found["lines"]
    assert (lines["lines_read"], lines["events"], lines["unaccounted"]) == (9, 7, 0)
    assert (lines["dead_letters"], lines["discarded"]) == (1, 1)


# --------------------------------------------------------------------------------------
# Whatever disagrees
# --------------------------------------------------------------------------------------

DAMAGE = {
    "a row is deleted": (
        "delete from projections.prj_video_progress where user_id = 'u2'",
        "projections.prj_video_progress: missing: user_id 'u2', class_id 'c1'",
    ),
    "a number is changed": (
        "update projections.prj_quiz_result set best_score = 9 where user_id = 'u2'",
        "projections.prj_quiz_result: wrong: user_id 'u2', class_id 'c1': "
        "best_score is 9.0 and should be 3.0",
    ),
    "a row is made up": (
        "insert into projections.prj_class_signal by name "
        "select * replace ('u9' as user_id) from projections.prj_class_signal "
        "where user_id = 'u3' and type = 'VIDEO_COMPLETED'",
        "projections.prj_class_signal: extra: user_id 'u9', class_id 'c2', "
        "type 'VIDEO_COMPLETED'",
    ),
    "a source event is removed": (
        "delete from raw.lms_event where event_id = 'u3c2'",
        "signals.lms_signal: VIDEO_COMPLETED of user_id 'u3', class_id 'c2' names "
        "event 'u3c2', which is not there",
    ),
    "that event's load does not add up": (
        None,
        "raw.load: load 3: 5 lines accepted, 4 events of it are there",
    ),
    "that event's state stands without it": (
        None,
        "projections.prj_video_progress: extra: user_id 'u3', class_id 'c2'",
    ),
    "a discarded letter is removed": (
        "delete from raw.discarded_letter",
        "raw.load: load 2: 2 lines not accepted; 0 dead letters of it are there, "
        "0 discarded ones, 1 retried away",
    ),
    "in total lines are nowhere": (
        None,
        "raw.load: in total 2 lines are unaccounted for",
    ),
    "a place is moved back": (
        "update bookkeeping.watermark set load_id = 2 "
        "where model = 'prj_class_activity'",
        "projections.prj_class_activity: it is at load 2 and "
        "has rows of load 4: that would be taken in twice",
    ),
    "a place is moved past the newest load": (
        "update bookkeeping.watermark set load_id = 40 "
        "where model = 'prj_user_signal_total'",
        "projections.prj_user_signal_total: it is at load 40, and the "
        "newest is 4: the loads between would be skipped",
    ),
    "a place is forgotten": (
        "delete from bookkeeping.watermark where model = 'prj_course_signal'",
        "projections.prj_course_signal: it has no watermark: the next refresh starts "
        "it over",
    ),
    "a table is dropped": (
        "drop table projections.prj_user_quarter_hour",
        "projections.prj_user_quarter_hour: the table is not there",
    ),
    "a table gets a column": (
        "alter table projections.prj_course_signal add column note varchar",
        "projections.prj_course_signal: other columns: note VARCHAR",
    ),
    "a seed is edited": (
        "update signals.signal_type set xp = 1 where type = 'QUIZ_PASSED'",
        "signals.signal_type: wrong: type 'QUIZ_PASSED': xp is 1 and should be 100",
    ),
    "a view is made otherwise": (
        "create or replace view progress.v_user_progress as select 1 as user_id",
        "progress.v_user_progress: another definition than the project's",
    ),
}


def damage(warehouse: Warehouse, *, to_raw: bool = True) -> None:
    for statement, _ in DAMAGE.values():
        if statement and (to_raw or " raw." not in statement):
            warehouse.execute(statement)


@pytest.fixture(scope="module")
def found(place: Path, derived: Path) -> Reconciliation:
    """What is found of all of it."""
    warehouse = put(derived, place)
    damage(warehouse)
    before = sha256_of(warehouse.path)
    found = reconcile(warehouse.path)
    assert sha256_of(warehouse.path) == before
    return found


@pytest.mark.parametrize("what", DAMAGE)
def test_whatever_disagrees_is_found_and_its_keys_are_named(
    found: Reconciliation, what: str
) -> None:
    assert DAMAGE[what][1] in found.problems


def test_what_was_left_alone_agrees(found: Reconciliation) -> None:
    hashes = {
        table.table: (table.live_hash, table.derived_hash) for table in found.tables
    }
    assert hashes["staging.event_type"][0] == hashes["staging.event_type"][1]
    assert (
        hashes["projections.prj_class_signal"][0]
        != hashes["projections.prj_class_signal"][1]
    )
    [quizzes] = [t for t in found.tables if t.table == "projections.prj_quiz_result"]
    assert (quizzes.added, quizzes.gone, quizzes.changed) == (0, 0, 1)


def test_the_command_says_what_disagrees_and_exits_with_1(
    warehouse: Warehouse, found: Reconciliation
) -> None:
    with mock.patch("orchestration.shadow.reconcile.reconcile", return_value=found):
        tables, as_json = command(warehouse), command(warehouse, "--json")

    assert (tables.exit_code, as_json.exit_code) == (1, 1)
    assert "projections.prj_quiz_result" in tables.stdout
    assert json.loads(as_json.stdout)["problems"] == list(found.problems)


@pytest.mark.long
def test_a_repair_gives_back_what_was_derived(warehouse: Warehouse) -> None:
    sound = warehouse.state()
    damage(warehouse, to_raw=False)

    found = reconcile(warehouse.path, repair=True)

    assert found.agrees, found.problems
    assert "projections.prj_quiz_result: 1 key" in found.repaired
    assert "progress.v_user_progress: its definition" in found.repaired
    assert "prj_user_signal_total: its watermark, load 4" in found.repaired
    assert refresh(warehouse) == {}
    assert_same_state(warehouse.state(), sound)


@pytest.mark.long
def test_damage_in_a_published_file_is_named_and_a_repair_publishes_again(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMS_PUBLISHED", str(tmp_path))
    snapshot.publish(warehouse.path)
    [file, *_] = sorted(tmp_path.rglob("*.parquet"))
    content = file.read_bytes()
    file.chmod(0o640)
    file.write_bytes(content[:60] + bytes(40) + content[100:])
    found = reconcile(warehouse.path)
    assert [str(file) in problem for problem in found.published] == [True]
    assert not found.agrees
    noted = last_runs.read(warehouse.path)["reconcile"]
    assert (noted.succeeded, noted.failures) == (False, ("published.snapshot",))

    mended = reconcile(warehouse.path, repair=True)
    assert mended.agrees
    assert last_runs.read(warehouse.path)["reconcile"].succeeded
    assert str(file) in mended.repaired[0]


@pytest.mark.long
def test_the_job_turns_the_assets_concerned_red(found: Reconciliation) -> None:
    from orchestration.definitions import defs

    with (
        mock.patch("orchestration.defs.reconcile.reconcile", return_value=found),
        dg.instance_for_test() as instance,
    ):
        result = defs.resolve_job_def("reconcile").execute_in_process(
            instance=instance, raise_on_error=False
        )

    assert not result.success
    passed = {
        ".".join(check.asset_key.path): check.passed
        for check in result.get_asset_check_evaluations()
    }
    red = {asset for asset, is_green in passed.items() if not is_green}
    assert red == {
        "monitoring.reconciliation",
        *(problem.split(": ")[0] for _, problem in DAMAGE.values()),
        # What the damage in raw reaches, too.
        *("projections.prj_active_day", "projections.prj_streak"),
        *("projections.prj_badge_award", "projections.prj_video_watch"),
    }
    assert passed["staging.event_type"]


def test_the_verdict_is_on_an_asset_that_no_refresh_makes_look_new(
    found: Reconciliation,
) -> None:
    from orchestration.definitions import defs
    from orchestration.defs.reconcile import CHECK, RECONCILIATION

    assert not defs.resolve_asset_graph().get(RECONCILIATION).is_materializable
    verdict = dg.AssetCheckKey(RECONCILIATION, CHECK)
    with (
        mock.patch("orchestration.defs.reconcile.reconcile", return_value=found),
        dg.instance_for_test() as instance,
    ):
        # The button beside the check runs it without the others.
        job = defs.resolve_job_def("reconcile").get_subset(
            asset_check_selection={verdict}
        )
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    [check] = result.get_asset_check_evaluations()
    assert (check.asset_check_key, check.passed) == (verdict, False)


def test_the_job_runs_once_a_day_and_no_other_job_does_its_work() -> None:
    from orchestration.definitions import defs

    schedule = defs.resolve_schedule_def("reconcile_schedule")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.cron_schedule == "0 4 * * *"
    for job in ("refresh", "rebuild", "checks"):
        nodes = [node.name for node in defs.resolve_job_def(job).nodes]
        assert "compare_with_raw" not in nodes


# --------------------------------------------------------------------------------------
# A projection that fails
# --------------------------------------------------------------------------------------


def watermarks(warehouse: Warehouse) -> dict[str, int]:
    return dict(warehouse.rows("select model, load_id from bookkeeping.watermark"))


POISONED = {
    *("prj_video_progress", "prj_video_watch", "prj_class_signal"),
    *("prj_course_signal", "prj_user_signal_total", "prj_badge_award"),
}


@pytest.mark.long
def test_a_poison_row_holds_up_those_that_read_it_and_is_named(
    warehouse: Warehouse,
) -> None:
    events = [ping(f"e{n}", user=f"u{n}", position=95, in_class="c1") for n in range(9)]
    warehouse.land([*events, quiz("q5", user="u5")])
    sound = warehouse.value("select line from raw.lms_event where event_id = 'e5'")
    warehouse.execute("update raw.lms_event set line = '{' where event_id = 'e5'")

    failures = refresh(warehouse)

    assert failures.keys() == {"prj_video_progress", "prj_video_watch"}
    for message in failures.values():
        assert "Malformed JSON" in message
        assert 'Input: "{"' in message
    assert {
        m for m, load_id in watermarks(warehouse).items() if load_id == 4
    } == POISONED
    assert {m for m, load_id in watermarks(warehouse).items() if load_id == 5} == {
        *("prj_class_activity", "prj_quiz_result", "prj_user_quarter_hour"),
        *("prj_active_day", "prj_streak", "prj_quiz_attempt"),
    }
    found = reconcile(warehouse.path)
    assert found.agrees, found.problems
    assert {table.load_id for table in found.tables} == {4, 5}

    warehouse.execute(
        f"update raw.lms_event set line = '{sound}' where event_id = 'e5'"
    )
    assert refresh(warehouse) == {}
    assert set(watermarks(warehouse).values()) == {5}
    assert reconcile(warehouse.path).agrees


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own over the folder, where the machine lets one be."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = (
            subprocess.run(mount, capture_output=True, check=False).returncode == 0
        )
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.long
def test_a_full_disk_leaves_nothing_half_done(place: Path, derived: Path) -> None:
    with small_disk(place, "64m"):
        warehouse = put(derived, place)
        warehouse.land(
            ping(f"e{number}", user=f"learner-{number}", position=95, in_class="c2")
            for number in range(20_000)
        )
        filler = place / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(place).free - 300_000))

        failed = refresh(warehouse)

        assert any("No space left" in message for message in failed.values())
        for model, load_id in watermarks(warehouse).items():
            if model == "prj_video_progress":
                assert warehouse.value(
                    "select sum(ping_count) from projections.prj_video_progress"
                ) == (4 if load_id == 4 else 20_004)
        filler.unlink()
        assert refresh(warehouse) == {}
        assert set(watermarks(warehouse).values()) == {5}
        assert warehouse.rows(
            "select count(*), sum(video_completed) from progress.v_user_progress"
        ) == [(20_004, 20_003)]
