"""The command: what it prints, its exit codes, and one clear line for every error."""

import json
import os
import pty
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner, Result

from ingest.errors import WarehouseError
from ingest.settings import Settings
from tests.support.builders import Warehouse, ping, quiz, write_lines
from tests.support.snapshot import publish_without_dbt

WAREHOUSE = Path(sys.executable).with_name("warehouse")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMS_WAREHOUSE", str(tmp_path / "warehouse.duckdb"))
    monkeypatch.setenv("LMS_LOCK_WAIT_SEC", "0.5")
    return tmp_path


def warehouse(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(WAREHOUSE), *arguments], text=True, capture_output=True, check=False
    )


def as_json(*arguments: str) -> Any:
    result = warehouse(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def error_of(*arguments: str) -> str:
    """The one line on standard error; the exit code says that something failed."""
    result = warehouse(*arguments)
    assert result.returncode == 1, result.stdout
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_day_in_the_shell_from_files_to_answers(folder: Path) -> None:
    write_lines(folder / "a.ndjson", [ping("e1", position=95), quiz("e2"), b"{", b""])
    (folder / "catalogue.csv").write_text(
        "class_id,course_id,title,position,has_video,has_quiz\nc1,k1,One,1,1,1\n"
    )

    landed = as_json("land", "a.ndjson")
    assert (landed["lines_read"], landed["accepted"], landed["rejected"]) == (3, 2, 1)
    assert landed["rejected_by_reason"] == {"broken_json": 1}
    assert landed["lines_per_second"] > 0
    [snapshot] = as_json("catalogue", "catalogue.csv", "--effective-from", "2026-01-01")
    assert (snapshot["classes"], snapshot["effective_from"]) == (
        1,
        "2026-01-01T00:00:00Z",
    )
    behind = as_json("status")
    assert behind["models"] == []
    refreshed = as_json("refresh")
    assert refreshed["succeeded"]
    [row] = as_json("query", "from progress.v_user_progress")
    assert row == {
        "user_id": "u1",
        "class_id": "c1",
        "course_id": "k1",
        "video_max_position_sec": 95,
        "video_completed": 1,
        "quiz_passed": 1,
        "quiz_score": 7,
    }
    again = as_json("land", "a.ndjson")
    assert (again["files_known"], again["lines_read"]) == (1, 0)
    status = as_json("status")
    assert status["published"]["load_id"] == 2
    assert 0 <= status["published"]["age_sec"] < 600
    assert status["last_runs"]["refresh"]["succeeded"]
    assert status["unread"] is None
    assert status["dead_letters"] == {"broken_json": 1}
    assert {model["behind_events"] for model in status["models"]} == {0}


def test_a_warehouse_is_backed_up_and_restored_in_the_shell(folder: Path) -> None:
    write_lines(folder / "a.ndjson", [ping("e1"), ping("e2"), b"{"])
    as_json("land", "a.ndjson")

    made = as_json("backup", "backups")
    assert (made["number"], made["rows"]["raw.lms_event"]) == (1, 2)
    assert "give --replace" in error_of("restore", "backups")
    (folder / "warehouse.duckdb").unlink()
    looked = as_json("restore", "backups", "--dry-run")
    assert looked["through_load"] == 1
    assert not (folder / "warehouse.duckdb").exists()
    restored = as_json("restore", "backups", "--no-refresh")
    assert restored["restored"]["rows"] == made["rows"]
    assert as_json("query", "--live", "select event_id from raw.lms_event") == [
        {"event_id": "e1"},
        {"event_id": "e2"},
    ]
    assert "no folder of backups" in error_of("backup")


@pytest.mark.long
def test_status_says_how_far_the_models_are_behind(folder: Path) -> None:
    write_lines(folder / "a.ndjson", [ping("e1")])
    warehouse("land", "a.ndjson")
    warehouse("refresh")
    write_lines(folder / "b.ndjson", [ping("e2"), ping("e3")])
    warehouse("land", "b.ndjson")

    for model in as_json("status")["models"]:
        assert (model["behind_loads"], model["behind_events"]) == (1, 2)


def test_status_says_what_failed_and_which_file_waits_longest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingest.store import last_runs
    from ingest.store.database import utc_now

    events = folder / "landing" / "events"
    events.mkdir(parents=True)
    monkeypatch.setenv("LMS_LANDING", str(folder / "landing"))
    for name, age_sec in (("a", 7_300), ("b", 100), ("read", 9_000)):
        file = write_lines(events / f"{name}.ndjson", [ping(name)])
        os.utime(file, (time.time() - age_sec,) * 2)
    as_json("land", "landing/events/read.ndjson")
    failed = last_runs.Run(utc_now(), succeeded=False, failures=("v_kpi",), skipped=3)
    last_runs.note(folder / "warehouse.duckdb", "refresh", failed)

    state = as_json("status")

    assert state["published"] is None
    assert state["last_runs"]["refresh"]["failures"] == ["v_kpi"]
    assert state["unread"]["files"] == 2
    assert state["unread"]["oldest"].endswith("a.ndjson")
    shown = warehouse("status").stdout
    assert "failed: v_kpi; 3 skipped because of that" in shown
    assert "2 h ago" in shown


def test_a_damaged_file_is_named_and_the_others_are_landed(folder: Path) -> None:
    write_lines(folder / "a.ndjson", [ping("e1")])
    (folder / "b.ndjson.gz").write_bytes(b"\x1f\x8b damaged")

    result = warehouse("land", "--json", ".")

    assert result.returncode == 1
    assert json.loads(result.stdout)["accepted"] == 1
    assert "b.ndjson.gz: cannot be read to its end" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_the_user_can_mend_is_one_line(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("x")
    assert "no such file or folder" in error_of("land", "nothere.ndjson")
    assert "a folder without events" in error_of("land", "empty")
    assert "not an event file" in error_of("land", "notes.txt")
    assert "no warehouse there" in error_of("status")
    assert "no such file" in error_of("catalogue", "nothere.csv")
    assert "--effective-from: 'soon'" in error_of(
        "catalogue", "nothere.csv", "--effective-from", "soon"
    )
    assert "demo-data" not in error_of("demo-data", ".")


@pytest.mark.parametrize("command", ["status", "refresh"])
def test_a_file_that_is_no_warehouse_is_said_to_be_none(
    folder: Path, command: str
) -> None:
    (folder / "warehouse.duckdb").write_text("this is no database, just some text")
    assert "not a DuckDB file, or a damaged one" in error_of(command)


def test_a_duckdb_file_of_something_else_is_left_alone(folder: Path) -> None:
    with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
        connection.execute("create table mine as select 1 as x")
    write_lines(folder / "a.ndjson", [ping("e1")])

    assert "a DuckDB file of something else" in error_of("land", "a.ndjson")
    with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
        tables = connection.execute("select table_name from duckdb_tables()").fetchall()
    assert tables == [("mine",)]


def test_a_full_disk_is_one_line_and_the_same_again_lands_all(folder: Path) -> None:
    write_lines(folder / "a.ndjson", [ping("e1")])
    as_json("land", "a.ndjson")
    write_lines(
        folder / "b.ndjson",
        (ping(f"b{number}", in_class=os.urandom(100).hex()) for number in range(9000)),
    )
    limit = (folder / "warehouse.duckdb").stat().st_size + 100_000

    # To whoever writes, no space and no larger file are the same.
    full = subprocess.run(
        [str(WAREHOUSE), "land", "b.ndjson"],
        text=True,
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )

    assert full.returncode == 1
    assert len(full.stderr.strip().splitlines()) == 1, full.stderr
    assert full.stderr.startswith("error: ")
    assert "if the disk is full make room" in full.stderr
    landed = as_json("land", "a.ndjson", "b.ndjson")
    assert (landed["files_known"], landed["accepted"]) == (1, 9000)


def test_a_locked_warehouse_is_waited_for_and_then_named(folder: Path) -> None:
    write_lines(folder / "a.ndjson", [ping("e1")])
    with duckdb.connect(str(folder / "warehouse.duckdb")):
        assert "another process has held the warehouse" in error_of("land", "a.ndjson")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class_id,course_id\nc1,k1\n", "line 1: no column title, position"),
        ("HEADER\nc1,k1,One,1,2,0\n", "line 2: has_video: expected 0 or 1, got '2'"),
        ("HEADER\nc1,k1,One,x,1,0\n", "line 2: position: expected a whole number"),
        ("HEADER\nc1,k1,One,1,1,0\nc1,k2,Two,2,1,0\n", "line 3: class_id 'c1' stands"),
        ("HEADER\n ,k1,One,1,1,0\n", "line 2: class_id: expected 1 to 256"),
        ("HEADER\nc1,k1,One\n", "line 2: position: no value"),
        ("HEADER\n", "would retire every class"),
    ],
)
def test_a_wrong_catalogue_names_line_and_field_and_lands_nothing(
    folder: Path, text: str, message: str
) -> None:
    header = "class_id,course_id,title,position,has_video,has_quiz"
    (folder / "catalogue.csv").write_text(text.replace("HEADER", header))

    assert message in error_of("catalogue", "catalogue.csv")
    assert not (folder / "warehouse.duckdb").exists()


def test_bad_usage_exits_with_2() -> None:
    for arguments in (["land"], ["no-such-command"], ["demo-data", "x", "--days", "0"]):
        assert warehouse(*arguments).returncode == 2


def test_every_command_has_help() -> None:
    names = [
        line.split()[1]
        for line in warehouse("--help").stdout.splitlines()
        if line.startswith("│ ") and not line.startswith("│ -")
    ]
    assert {"land", "catalogue", "refresh", "rebuild", "status", "demo-data"} <= set(
        names
    )


def dbt_show(sql: str) -> str:
    """From the folder beside the dbt project."""
    shown = subprocess.run(
        [
            *(WAREHOUSE.with_name("dbt"), "--quiet", "show", "--inline", sql),
            *("--project-dir", "../dbt_project", "--profiles-dir", "../dbt_project"),
        ],
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    return shown.stdout


@pytest.mark.long
def test_a_path_may_have_any_characters(
    dbt: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.derive.dbt_project import DBT_PROJECT

    checkout = tmp_path / """it's a "path" [1] ü"""
    (checkout / "data").mkdir(parents=True)
    without_target = shutil.ignore_patterns("target")
    shutil.copytree(DBT_PROJECT, checkout / "dbt_project", ignore=without_target)
    write_lines(checkout / "data" / "a.ndjson", [ping("e1", position=95)])
    monkeypatch.chdir(checkout / "data")
    monkeypatch.delenv("LMS_WAREHOUSE", raising=False)

    assert as_json("land", "a.ndjson")["accepted"] == 1
    assert as_json("refresh")["succeeded"]

    [row] = as_json("query", "from progress.v_user_progress")
    assert row["video_completed"] == 1
    [event] = as_json("query", "select event_id from raw.lms_event")
    assert event == {"event_id": "e1"}
    assert "7" in dbt_show("select 7")
    (checkout / "data" / "warehouse.duckdb").unlink()
    # At once, from wherever dbt is run, and without an empty file.
    assert "no warehouse there" in dbt_show("select 7")
    assert not (checkout / "data" / "warehouse.duckdb").exists()
    assert "no warehouse there" in error_of("refresh")


@pytest.mark.parametrize(
    "command",
    [
        *("refresh", "rebuild", "check", "status", "reconcile", "publish", "shell"),
        *("replay", "replay --apply", "replay --undo", "replay --as-of 2026-01-01"),
        *("query 'select 1'", "query --live 'select 1'", "export raw.load"),
        *("sandbox mine", "diff mine", "why u1 c1", "snapshot --without-names"),
        *("dead-letters list", "dead-letters retry --all"),
        "dead-letters discard --all --why old",
        *("erase --user u1 --reason asked", "compare-lms export.db"),
    ],
)
def test_only_what_lands_makes_a_warehouse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    from orchestration.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LMS_WAREHOUSE", raising=False)
    if command.startswith("compare-lms"):
        (tmp_path / "export.db").touch()
    before = {*tmp_path.rglob("*")}

    failed = CliRunner().invoke(app, shlex.split(command)).exception

    assert isinstance(failed, WarehouseError), failed
    assert str(tmp_path) in str(failed) or "mine" in str(failed)
    assert {*tmp_path.rglob("*")} == before


def test_a_warehouse_is_looked_for_in_the_project_that_one_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project" / "docs" / "runbooks"
    folder.mkdir(parents=True)
    dbt_project = tmp_path / "project" / "dbt_project"
    dbt_project.mkdir()
    monkeypatch.chdir(folder)
    assert Settings.from_environment({}).warehouse.is_relative_to(folder)

    (dbt_project / "dbt_project.yml").write_text("name: lms_warehouse\n")

    settings = Settings.from_environment({"LMS_LANDING": "mine"})
    assert settings.warehouse == tmp_path / "project" / "data" / "warehouse.duckdb"
    assert settings.landing == folder / "mine"


def test_an_error_in_a_query_is_one_line(folder: Path) -> None:
    write_lines(folder / "a.ndjson", [ping("e1")])
    warehouse("land", "a.ndjson")
    assert "Catalog Error" in error_of("query", "--live", "from nothing_there")
    assert "only reads" in error_of("query", "--live", "create table x (y int)")


def test_files_of_learners_are_for_their_owner_and_group_alone(folder: Path) -> None:
    lines = write_lines(folder / "a.ndjson", [ping("e1"), b"{"])
    before = {*folder.rglob("*")}
    # The umask of most machines, under which they would be for everyone.
    under_umask = f"umask 022; {WAREHOUSE}"
    for arguments in (
        f"land {lines}",
        "dead-letters export broken.ndjson",
        "demo-data landing --learners 2 --days 1",
    ):
        subprocess.run(f"{under_umask} {arguments}", shell=True, check=True)
    made = {*folder.rglob("*")} - before
    assert len(made) > 5
    for path in made:
        assert path.stat().st_mode & (0o027 if path.is_dir() else 0o137) == 0, path


@pytest.mark.long
def test_an_escape_sequence_in_data_is_shown_and_not_obeyed(folder: Path) -> None:
    attack = "\x1b]0;title\x07\x9b31m"
    letter = b'{"event_id": "' + attack.encode()
    write_lines(folder / "a.ndjson", [ping("e1", user=attack), letter])
    warehouse("land", "a.ndjson")
    for arguments in (
        ("dead-letters", "list"),
        ("dead-letters", "list", "--json"),
        ("dead-letters", "show", "1:2"),
        ("dead-letters", "show", "1:2", "--json"),
        ("query", "--live", "select user_id from raw.lms_event"),
        ("query", "--live", "--json", "select user_id from raw.lms_event"),
        ("query", "--live", 'select 1 as "' + attack + '"'),
        ("query", "--live", 'from "' + attack + '"'),
    ):
        done = warehouse(*arguments)
        assert set(done.stdout + done.stderr).isdisjoint("\x1b\x07\x9b"), arguments
    [row] = as_json("query", "--live", "select user_id from raw.lms_event")
    assert row["user_id"] == attack
    assert "\\x1b]0;title\\x07" in warehouse("dead-letters", "show", "1:2").stdout


def asked(*arguments: str) -> Result:
    """What a question says, asked in this process of the live warehouse."""
    from orchestration.cli import app

    result = CliRunner().invoke(app, ["query", "--live", *arguments])
    assert result.exit_code == 0, result
    return result


@pytest.fixture
def landed(folder: Path) -> Path:
    write_lines(folder / "a.ndjson", [ping("e1")])
    warehouse("land", "a.ndjson")
    return folder


def test_an_answer_is_cut_at_40_rows_and_says_so(landed: Path) -> None:
    many = "select range as n from range(41)"

    cut = asked(many)
    assert ("│ 39 │" in cut.output, "│ 40 │" in cut.output) == (True, False)
    assert "note: the first 40 rows; --all shows all" in cut.stderr
    for whole in (asked(many, "--all"), asked("select range as n from range(40)")):
        assert "note" not in whole.stderr
    assert "│ 40 │" in asked(many, "--all").output
    assert len(json.loads(asked(many, "--format", "json").output)) == 41
    assert asked(many, "--format", "csv").output.splitlines() == [
        "n",
        *map(str, range(41)),
    ]


def test_a_row_that_is_wider_than_the_terminal_has_a_line_for_each_value(
    landed: Path,
) -> None:
    wide = asked(f"select 7 as n, '{'x' * 200}' as text").output
    assert wide == f"row 1\n  n     7\n  text  {'x' * 200}\n"


def test_what_data_say_is_shown_as_it_is(landed: Path) -> None:
    text = asked("select ':x: [red]a\\[/red] \x1b[31m' as text").output
    assert r":x: [red]a\[/red] \x1b[31m" in text
    assert "\x1b" not in text


def test_csv_has_values_as_they_are(landed: Path) -> None:
    answer = asked(
        "select timestamp '2026-03-10 10:00' as at, null as nothing, ['a'] as list, "
        "'b,c' as text",
        *("--format", "csv"),
    )
    assert answer.output == (
        'at,nothing,list,text\n2026-03-10T10:00:00Z,,"[""a""]","b,c"\n'
    )


def test_the_version_and_short_help_are_there_and_commands_stand_in_groups() -> None:
    from orchestration.cli import app

    assert CliRunner().invoke(app, ["--version"]).output == "warehouse 0.1.0\n"
    for arguments in (["-h"], ["land", "-h"], ["tokens", "create", "-h"]):
        assert "Usage" in CliRunner().invoke(app, arguments).output
    help_text = CliRunner().invoke(app, ["--help"]).output
    assert "─ Read ─" in help_text
    assert "─ Commands ─" not in help_text
    assert "--install-completion" in help_text


def test_waiting_for_the_lock_is_shown_on_a_terminal(landed: Path) -> None:
    terminal, at_the_process = pty.openpty()
    with duckdb.connect(str(landed / "warehouse.duckdb")):
        waits = subprocess.Popen(
            [str(WAREHOUSE), "status"],
            stdout=subprocess.DEVNULL,
            stderr=at_the_process,
            env={**os.environ, "LMS_LOCK_WAIT_SEC": "60"},
        )
        shown = b""
        while b"waiting until another process lets warehouse.duckdb go" not in shown:
            shown += os.read(terminal, 4096)
    assert waits.wait() == 0
    os.close(terminal)
    os.close(at_the_process)


def test_an_export_has_the_format_that_its_name_ends_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.cli import app

    made = Warehouse(folder)
    made.land([ping("e1"), ping("e2")])
    publish_without_dbt(made)

    def export(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["export", "raw.load", *arguments])

    for name in ("loads.csv", "loads.json", "loads.parquet"):
        assert export("--output", name).exit_code == 0
        rows = duckdb.execute(f"select load_id, accepted from '{name}'").fetchall()
        assert rows == [(1, 2)]
    assert export("--output", "loads.txt").exit_code == 2
    assert export("--output", "loads.txt", "--format", "csv").exit_code == 0
    assert export("--output", "-", "--json").exit_code == 2
    written = export("--output", "-", "--format", "csv")
    assert written.stdout_bytes == (folder / "loads.csv").read_bytes()
