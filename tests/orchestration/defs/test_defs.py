"""Dagster: the lineage, jobs, schedule and sensors, and one writer at a time."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingest.settings import Settings
from tests.support.builders import ping, quiz, write_lines
from tests.support.dagster_runs import launch, make_home, run_process, wait_for

pytestmark = pytest.mark.long

PROJECT = Path(__file__).parents[3]
RAW_TABLES = ("lms_event", "dead_letter", "load", "catalogue")
LAYERS = {
    *("landing", "raw", "catalogue", "staging", "projections"),
    *("signals", "progress", "monitoring", "analytics", "published", "outbox"),
    "backup",
}


@pytest.fixture(scope="session")
def defs(dbt: None) -> dg.Definitions:
    from orchestration.definitions import defs

    return defs


def arrive(folder: Path) -> Path:
    """A landing zone with a catalogue and one learner who does all of one class."""
    zone = folder / "landing"
    (zone / "events").mkdir(parents=True)
    (zone / "catalogue").mkdir()
    (zone / "catalogue" / "catalogue.csv").write_text(
        "class_id,course_id,title,position,has_video,has_quiz\nc1,k1,One,1,1,1\n"
    )
    write_lines(
        zone / "events" / "b.ndjson",
        [ping("e1", position=95, duration=100), quiz("e2", score=8), b"{broken"],
    )
    return zone


def settle(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("LMS_LANDING", str(folder / "landing"))
    patch.setenv("LMS_WAREHOUSE", str(folder / "warehouse.duckdb"))
    patch.setenv("LMS_LOCK_WAIT_SEC", "2")


@pytest.fixture
def zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something has arrived, and there is no warehouse."""
    settle(monkeypatch, tmp_path)
    return arrive(tmp_path)


@pytest.fixture(scope="module")
def first_refresh(
    defs: dg.Definitions, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dg.ExecuteInProcessResult]:
    """A folder in which the job `refresh` ran once, and what it gave."""
    folder = tmp_path_factory.mktemp("first_refresh")
    arrive(folder)
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test() as instance:
        settle(patch, folder)
        result = run(defs, instance, "refresh")
    assert result.success
    return folder, result


@pytest.fixture
def refreshed(
    first_refresh: tuple[Path, dg.ExecuteInProcessResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The landing zone of a warehouse that was refreshed by the job."""
    settle(monkeypatch, tmp_path)
    shutil.copytree(first_refresh[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "landing"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def run(
    defs: dg.Definitions, instance: dg.DagsterInstance, job: str, **options: Any
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance, raise_on_error=False, **options
    )


def ask(sql: str) -> list[tuple[Any, ...]]:
    from ingest.store.database import open_for_reading

    with open_for_reading(Settings.from_environment().warehouse) as connection:
        return connection.execute(sql).fetchall()


def test_the_lineage_goes_from_file_to_view_with_one_group_a_layer(
    defs: dg.Definitions,
) -> None:
    graph = defs.resolve_asset_graph()

    assert {graph.get(key).group_name for key in graph.get_all_asset_keys()} == LAYERS
    for key in graph.get_all_asset_keys():
        assert key.path[0] == graph.get(key).group_name
    ancestors = graph.get_ancestor_asset_keys(
        dg.AssetKey(["monitoring", "v_leaderboard"])
    )
    assert {key.path[0] for key in ancestors} >= {
        *("landing", "raw", "staging", "projections", "signals")
    }


def test_a_refresh_run_lands_derives_and_shows_what_it_did(
    defs: dg.Definitions,
    refreshed: Path,
    first_refresh: tuple[Path, dg.ExecuteInProcessResult],
) -> None:
    _, result = first_refresh
    assert ask("from progress.v_user_progress") == [("u1", "c1", "k1", 95, 1, 1, 8)]
    metadata = materialized(result)
    # Receivers are told, backups made and reports written by jobs of their own.
    everything = set(defs.resolve_asset_graph().materializable_asset_keys)
    assert everything - set(metadata) == {
        dg.AssetKey(["backup", "warehouse"]),
        dg.AssetKey(["outbox", "delivery"]),
        dg.AssetKey(["published", "weekly_report"]),
    }
    load = metadata[dg.AssetKey(["raw", "load"])]
    assert (load["accepted"].value, load["rejected"].value) == (2, 1)
    progress = metadata[dg.AssetKey(["progress", "v_user_progress"])]
    assert progress["dagster/row_count"].value == 1
    assert "| u1 | c1 | k1 | 95 |" in progress["sample"].value
    assert "select * from final" in progress["sql"].value
    state = metadata[dg.AssetKey(["projections", "prj_video_progress"])]
    assert (state["load_id"].value, state["loads_behind"].value) == (2, 0)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert {"no_line_is_lost", "every_file_was_landed"} < set(checks)
    assert all(check.passed for check in checks.values())


def materialized(result: dg.ExecuteInProcessResult) -> dict[dg.AssetKey, Any]:
    """The metadata of each asset of the run."""
    return {
        event.asset_key: event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def test_each_asset_has_columns_an_owner_a_kind_its_code_and_no_sql_in_prose(
    defs: dg.Definitions,
) -> None:
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}

    for key, spec in specs.items():
        assert spec.owners, key
        assert spec.kinds, key
        [reference] = spec.metadata["dagster/code_references"].code_references
        assert Path(reference.file_path).is_file()
        assert "select" not in str(spec.description).lower(), key
        if "dagster/column_schema" in spec.metadata:
            columns = spec.metadata["dagster/column_schema"].columns
            assert columns
            assert all(column.description for column in columns), key
    tables = [spec for spec in specs.values() if "duckdb" in (spec.kinds or ())]
    assert len(tables) > 40
    assert [
        str(spec.key) for spec in tables if "dagster/column_schema" not in spec.metadata
    ] == [str(dg.AssetKey(["published", "snapshot"]))]
    for spec in specs.values():
        if "dbt" in spec.kinds and list(spec.deps):
            origins = spec.metadata["dagster/column_lineage"].deps_by_column
            assert any(origins.values()), spec.key
    leaderboard = specs[dg.AssetKey(["monitoring", "v_leaderboard"])].metadata
    types = {c.name: c.type for c in leaderboard["dagster/column_schema"].columns}
    assert types["user_id"] == "VARCHAR"
    lineage = leaderboard["dagster/column_lineage"].deps_by_column
    assert {"xp", "course_completed_count"} <= {
        dep.column_name for dep in lineage["total_xp"]
    }


def test_the_launchpad_opens_each_job_with_a_config_that_is_valid(
    defs: dg.Definitions,
) -> None:
    jobs = {job.name: job for job in defs.get_repository_def().get_all_jobs()}
    assert {"refresh", "rebuild", "checks", "publish", "replay"} <= jobs.keys()
    for job in jobs.values():
        assert dg.validate_run_config(job, {})


def test_what_the_command_made_before_is_shown_by_a_first_run(
    defs: dg.Definitions, instance: dg.DagsterInstance, zone: Path
) -> None:
    from ingest.landing.zone import land_zone
    from orchestration.defs.sensors import landing_zone_sensor

    land_zone(zone, Path(os.environ["LMS_WAREHOUSE"]))

    def asks(cursor: str | None) -> bool:
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        result = landing_zone_sensor(context, settings=Settings.from_environment())
        return isinstance(result, dg.SensorResult) and bool(result.run_requests)

    assert asks(None)
    assert not asks("first")


def test_a_view_that_stands_is_as_fresh_as_what_it_reads(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    refreshed: Path,
    first_refresh: tuple[Path, dg.ExecuteInProcessResult],
) -> None:
    first = materialized(first_refresh[1])
    write_lines(refreshed / "events" / "c.ndjson", [ping("e3", user="u2")])

    result = run(defs, instance, "refresh")

    again = materialized(result)
    assert result.success
    assert set(again) == set(first)
    progress = again[dg.AssetKey(["progress", "v_user_progress"])]
    assert progress["dagster/row_count"].value == 2
    assert "| u2 | c1 | k1 |" in progress["sample"].value
    assert "CREATE VIEW progress.v_user_progress" in progress["sql"].value
    assert "seconds" not in progress
    assert "seconds" in again[dg.AssetKey(["projections", "prj_class_signal"])]


def test_what_is_made_from_what_failed_is_not_shown_as_fresh(
    defs: dg.Definitions, instance: dg.DagsterInstance, refreshed: Path
) -> None:
    from ingest.store.database import open_for_writing

    with open_for_writing(Settings.from_environment().warehouse) as connection:
        connection.execute(
            "update projections.prj_video_progress "
            "set max_position_sec = -1, load_id = 99"
        )
    write_lines(refreshed / "events" / "c.ndjson", [ping("e3", user="u2")])

    result = run(defs, instance, "refresh")

    assert not result.success
    fresh = {key.path[-1] for key in materialized(result)}
    assert {"prj_video_progress", "stg_event", "v_load_outcome"} <= fresh
    assert not {"v_user_progress", "prj_class_signal", "v_leaderboard"} & fresh


def test_a_rebuild_run_gives_the_same_answer(
    defs: dg.Definitions, instance: dg.DagsterInstance, refreshed: Path
) -> None:
    before = ask("from signals.lms_signal order by signal_id")

    assert run(defs, instance, "rebuild").success
    assert ask("from signals.lms_signal order by signal_id") == before
    assert len(before) == 4


def test_the_checks_run_looks_at_the_whole_history(
    defs: dg.Definitions, instance: dg.DagsterInstance, refreshed: Path
) -> None:
    from ingest.store.database import open_for_writing

    assert run(defs, instance, "checks").success
    with open_for_writing(Settings.from_environment().warehouse) as connection:
        connection.execute("delete from raw.lms_event where event_id = 'e1'")
    result = run(defs, instance, "checks")

    assert not result.success
    checks = result.get_asset_check_evaluations()
    failed = {check.check_name for check in checks if not check.passed}
    assert failed


def test_one_asset_can_be_derived_again_by_itself(
    defs: dg.Definitions, instance: dg.DagsterInstance, refreshed: Path
) -> None:
    key = dg.AssetKey(["progress", "v_user_progress"])

    result = run(defs, instance, "refresh", asset_selection=[key])

    assert result.success
    assert [e.asset_key for e in result.get_asset_materialization_events()] == [key]


def test_a_damaged_file_turns_its_check_red_and_the_others_are_landed(
    defs: dg.Definitions, instance: dg.DagsterInstance, zone: Path
) -> None:
    whole = gzip.compress(json.dumps(ping("e9")).encode())
    (zone / "events" / "a.ndjson.gz").write_bytes(whole[:-6])

    result = run(defs, instance, "refresh")

    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert result.success
    assert not checks["every_file_was_landed"].passed
    assert ask("select count(*) from raw.lms_event") == [(2,)]


def test_a_day_without_a_load_is_a_warning_of_each_refresh(
    defs: dg.Definitions, instance: dg.DagsterInstance, refreshed: Path
) -> None:
    from ingest.store.database import open_for_writing

    with open_for_writing(Settings.from_environment().warehouse) as connection:
        connection.execute(
            "update raw.load set received_at = received_at - interval 25 hour"
        )

    result = run(
        defs,
        instance,
        "refresh",
        asset_selection=[dg.AssetKey(["raw", table]) for table in RAW_TABLES],
    )

    [check] = (
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == "something_came_of_late"
    )
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_dagster_warns_of_progress_that_was_not_derived_for_a_while(
    defs: dg.Definitions,
) -> None:
    graph = defs.resolve_asset_graph()

    with_policy = {
        key.to_user_string(): node.freshness_policy
        for key in graph.materializable_asset_keys
        if (node := graph.get(key)).freshness_policy
    }

    assert with_policy == {
        "progress/v_user_progress": dg.FreshnessPolicy.time_window(
            warn_window=timedelta(minutes=15), fail_window=timedelta(minutes=30)
        )
    }


def test_a_load_that_lost_a_line_is_found(
    defs: dg.Definitions, instance: dg.DagsterInstance, refreshed: Path
) -> None:
    from ingest.store.database import open_for_writing
    from orchestration.defs.raw import loads_that_lost_lines

    with open_for_writing(Settings.from_environment().warehouse) as connection:
        assert loads_that_lost_lines(connection, [1, 2]) == []
        connection.execute("delete from raw.dead_letter")
        assert loads_that_lost_lines(connection, [1, 2]) == [2]


def test_a_file_that_is_no_warehouse_fails_at_once_with_one_line(
    defs: dg.Definitions, instance: dg.DagsterInstance, zone: Path
) -> None:
    Path(os.environ["LMS_WAREHOUSE"]).write_text("this is no database")

    result = run(defs, instance, "refresh")

    assert not result.success
    failures = [event for event in result.all_events if event.is_step_failure]
    assert "not a DuckDB file" in str(failures[0].step_failure_data.user_failure_data)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_a_locked_warehouse_is_tried_again(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    zone: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestration.defs.resources.RETRY_WAIT_SEC", 1)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import duckdb, sys\n"
            "connection = duckdb.connect(sys.argv[1])\n"
            "print('held', flush=True)\n"
            "sys.stdin.read()",
            os.environ["LMS_WAREHOUSE"],
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    holder.stdout.readline()

    def let_go_at_the_first_retry() -> None:
        try:
            wait_for(lambda: retries(instance), 120)
        finally:
            holder.communicate()

    with ThreadPoolExecutor(1) as pool:
        letting_go = pool.submit(let_go_at_the_first_retry)
        result = run(defs, instance, "refresh")
        letting_go.result()

    assert [event.step_key for event in result.all_events if event.is_step_up_for_retry]
    assert result.success


def retries(instance: dg.DagsterInstance) -> list[dg.EventLogEntry]:
    return [
        entry
        for run in instance.get_runs()
        for entry in instance.all_logs(
            run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY
        )
    ]


def test_the_schedule_skips_while_a_refresh_is_under_way(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    from orchestration.defs.schedules import refresh_schedule

    def tick() -> object:
        return refresh_schedule(dg.build_schedule_context(instance))

    assert isinstance(tick(), dg.RunRequest)
    job = defs.resolve_job_def("refresh")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert isinstance(tick(), dg.SkipReason)
    instance.report_run_canceled(run)
    assert isinstance(tick(), dg.RunRequest)


def test_a_landing_zone_at_rest_is_not_listed_again(
    zone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files were landed, a tick every five seconds costs nothing."""
    from orchestration.defs import sensors

    looks = sensors.LandingZone(zone)
    first = looks.look()
    assert looks.look() is first
    nested = zone / "events" / "2026" / "03"
    nested.mkdir(parents=True)
    assert looks.look().files == first.files
    file = write_lines(nested / "a.ndjson", [ping("e9")])
    assert file in looks.look().files, "a new file is seen at once"
    renamed = file.rename(nested / "b.ndjson")
    assert renamed in looks.look().files
    second = looks.look()
    with renamed.open("a") as more:
        more.write("\n")
    monkeypatch.setattr(sensors, "_LOOK_AGAIN_SEC", 0)
    assert looks.look().listing != second.listing, "one that grew is seen by and by"


def test_the_sensor_asks_for_each_content_once_whatever_its_name(
    defs: dg.Definitions, instance: dg.DagsterInstance, zone: Path
) -> None:
    from orchestration.defs.sensors import landing_zone_sensor

    cursor = None

    def requests() -> int:
        nonlocal cursor
        result = landing_zone_sensor(
            dg.build_sensor_context(instance=instance, cursor=cursor),
            settings=Settings.from_environment(),
        )
        if isinstance(result, dg.SkipReason):
            return 0
        assert isinstance(result, dg.SensorResult)
        cursor = result.cursor
        return len(result.run_requests or [])

    assert requests() == 1
    assert requests() == 0, "it asks once, also while the run has not come"
    run(defs, instance, "refresh")
    assert requests() == 0
    write_lines(zone / "events" / "a-late-file-that-sorts-first.ndjson", [ping("e3")])
    assert requests() == 1
    run(defs, instance, "refresh")
    shutil.copy(zone / "events" / "b.ndjson", zone / "events" / "c.ndjson")
    assert requests() == 0, "the same content under another name is no news"


def test_a_failed_run_is_posted_with_its_reason(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    zone: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from orchestration.defs.sensors import run_failure_alert

    received: list[dict[str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            received.append(json.loads(self.rfile.read(length)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    Path(os.environ["LMS_WAREHOUSE"]).write_text("this is no database")
    result = run(defs, instance, "refresh")
    failure = next(event for event in result.all_events if event.is_run_failure)
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("LMS_ALERT_URL", f"http://127.0.0.1:{server.server_port}/")
        run_failure_alert(
            dg.build_run_status_sensor_context(
                sensor_name="run_failure_alert",
                dagster_event=failure,
                dagster_instance=instance,
                dagster_run=result.dagster_run,
            ).for_run_failure(),
            settings=Settings.from_environment(),
        )
        server.shutdown()

    [message] = received
    assert message["job"] == "refresh"
    assert "not a DuckDB file" in message["error"]
    assert "\n" not in message["text"]
    assert message["text"].startswith(f"refresh failed: {message['error']}")
    assert message["text"].endswith(f"/runs/{result.run_id}")


# --- real processes ----------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, zone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Dagster instance as `make dev` has it; its schedule never ticks by itself."""
    home = make_home(tmp_path / "dagster")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("LMS_REFRESH_CRON", "0 0 1 1 *")
    monkeypatch.setenv("LMS_LOCK_WAIT_SEC", "60")
    return home


@pytest.fixture
def daemon(home: Path) -> Iterator[dg.DagsterInstance]:
    command = [str(Path(sys.executable).with_name("dagster-daemon")), "run"]
    with (home / "daemon.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield instance
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_killed_run_blocks_the_next_for_less_than_two_minutes(
    daemon: dg.DagsterInstance,
) -> None:
    # The sensor sees the landing zone and asks for the first run by itself.
    first = wait_for(lambda: daemon.get_runs(), 90)[0]
    process = wait_for(lambda: run_process(daemon, first.run_id, at_step="derive"), 60)
    os.kill(process, signal.SIGKILL)
    killed_at = time.monotonic()

    next_run = launch("refresh")
    out, _ = next_run.communicate(timeout=150)

    assert next_run.returncode == 0, out[-2000:]
    assert time.monotonic() - killed_at < 120
    assert ask("from progress.v_user_progress") == [("u1", "c1", "k1", 95, 1, 1, 8)]
    killed = daemon.get_run_by_id(first.run_id)
    assert killed is not None
    assert killed.status == dg.DagsterRunStatus.FAILURE


def test_without_a_daemon_too_a_killed_run_holds_up_the_next_for_seconds_alone(
    home: Path,
) -> None:
    first = launch("refresh")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        [run] = wait_for(lambda: instance.get_runs(), 180)
        process = wait_for(
            lambda: run_process(instance, run.run_id, at_step="derive"), 180
        )
    os.kill(process, signal.SIGKILL)
    first.communicate()

    next_run = launch("refresh")
    out, _ = next_run.communicate(timeout=120)

    assert next_run.returncode == 0, out[-2000:]
    assert ask("from progress.v_user_progress") == [("u1", "c1", "k1", 95, 1, 1, 8)]
    assert list((home / "running").iterdir()) == []


def test_two_runs_at_once_write_one_after_the_other(home: Path) -> None:
    runs = [launch("refresh"), launch("refresh")]
    outs = [run.communicate(timeout=180)[0] for run in runs]

    assert [run.returncode for run in runs] == [0, 0], outs[0][-2000:] + outs[1][-2000:]
    assert ask("select count(*), max(load_id) from raw.load") == [(2, 2)]
    assert ask("select sum(event_count) from projections.prj_class_activity") == [(2,)]
