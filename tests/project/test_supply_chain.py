"""Advisories are told, and that there are none to be had; secrets and ids stay out of
what is logged, said and configured."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import supply_chain
from tests.support.builders import Class, Warehouse, ping, write_lines

WAREHOUSE = Path(sys.executable).with_name("warehouse")


def answering(folder: Path, *answers: Any) -> str:
    """A pip-audit that gives these answers, one by one."""
    for number, answer in enumerate(answers):
        text = answer if isinstance(answer, str) else json.dumps(answer)
        (folder / f"answer-{number}").write_text(text)
    program = folder / "pip-audit"
    program.write_text(
        f"#!/bin/sh\ncd {folder}\nfor each in answer-*; do cat $each; rm $each; "
        "exit; done\n"
    )
    program.chmod(0o755)
    return str(program)


KNOWN = {"name": "pip", "version": "24.0", "vulns": []}
FAULTY = {
    "name": "a",
    "version": "1",
    "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}],
}
SKIPPED = {"name": "b", "skip_reason": "not found"}


def test_a_known_fault_of_the_lock_fails_the_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [{"dependencies": each} for each in ([KNOWN], [KNOWN, FAULTY, SKIPPED])]
    assert supply_chain.audit(answering(tmp_path, *answers)) == 1
    said = capsys.readouterr()
    assert said.err == "error: a 1: CVE-1; mended in 2\n"
    assert "b: nothing is known of it" in said.out


@pytest.mark.parametrize("answer", [{"dependencies": [SKIPPED]}, "no network"])
def test_where_no_advisories_can_be_had_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Any
) -> None:
    assert supply_chain.audit(answering(tmp_path, answer, {"dependencies": []})) == 0
    assert "the lock was not audited" in capsys.readouterr().out


# --- canaries ------------------------------------------------------------------------

SECRET = "s3cret-c4nary-0123456789abcdef0123456789abcdef"
LEARNER = "learner-c4nary"

SECRETS = {
    "LMS_ERASURE_KEY": SECRET,
    "LMS_TALLY_SECRET": SECRET,
    "LMS_LEARNER_SECRET": SECRET,
    "LMS_ALERT_URL": f"http://127.0.0.1:9/{SECRET}",
    "LMS_PUBLISH_URL": f"http://user:{SECRET}@127.0.0.1:9/events",
    "LMS_XAPI_URL": f"http://user:{SECRET}@127.0.0.1:9/xapi",
    "LMS_REPORT_SMTP": f"smtp://user:{SECRET}@127.0.0.1:9",
}


class Shell:
    """The command, with secrets in its environment; all that it ever said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("LMS_")},
            **SECRETS,
            "LMS_WAREHOUSE": str(folder / "warehouse.duckdb"),
            "LMS_LANDING": str(folder / "landing"),
            "LMS_BACKUP": str(folder / "backups"),
            "LMS_LOCK_WAIT_SEC": "0",
            "LMS_PUBLISH_GIVE_UP_SEC": "0",
            "LMS_PUBLISH_TIMEOUT_SEC": "0.1",
        }

    def run(self, *arguments: str) -> int:
        result = subprocess.run(
            [str(WAREHOUSE), *arguments],
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
        )
        self.said += result.stdout + result.stderr
        return result.returncode


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    warehouse = Warehouse(tmp_path)
    warehouse.land_catalogue(Class("c1"))
    write_lines(
        tmp_path / "a.ndjson",
        [
            ping("e1", user=LEARNER, position=95),
            ping("e2", user=LEARNER, position=-1),
            ping("e1", user=LEARNER, position=3),
            f'{{"user_id": "{LEARNER}", '.encode(),
            ping("e3", user=LEARNER, at="yesterday"),
        ],
    )
    return Shell(tmp_path)


# Files that are about learners, or are the key itself.
_DATA = (".duckdb", ".parquet", ".ndjson", ".csv", ".wal", ".erasure-key")


def holding(folder: Path, text: str) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in _DATA
        and text.encode() in path.read_bytes()
    ]


def test_commands_say_neither_a_secret_nor_a_learners_id(shell: Shell) -> None:
    assert shell.run("land", "a.ndjson", "missing.ndjson") == 1
    shell.run("land", str(shell.folder / "a.ndjson"))
    shell.run("land", str(shell.folder / "a.ndjson"), "--json")
    shell.run("status")
    shell.run("dead-letters", "retry")
    shell.run("backup")
    shell.run("doctor")
    shell.run("restore", "--replace", "--no-refresh")
    shell.run("restore", "--dry-run")
    shell.run("publish")
    assert "backup 1" in shell.said
    assert "no signals yet" in shell.said
    for canary in (SECRET, LEARNER):
        assert canary not in shell.said
        assert holding(shell.folder, canary) == []


@pytest.mark.long
def test_dbt_dagster_and_receivers_log_neither_a_secret_nor_a_learners_id(
    shell: Shell, dbt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, target = shell.folder / "dagster", shell.folder / "target"
    home.mkdir()
    (shell.folder / "landing" / "events").mkdir(parents=True)
    (shell.folder / "a.ndjson").rename(shell.folder / "landing" / "events" / "a.ndjson")
    project = Path(__file__).parents[2]
    settings = project / "orchestration" / "dagster.yaml"
    (home / "dagster.yaml").write_bytes(settings.read_bytes())
    shell.environment |= {"DAGSTER_HOME": str(home), "DBT_TARGET_PATH": str(target)}
    job = subprocess.run(
        [
            *(sys.executable, "-m", "dagster", "job", "execute", "-m"),
            *("orchestration.definitions", "-j", "refresh"),
        ],
        env=shell.environment,
        cwd=project,
        text=True,
        capture_output=True,
        check=False,
    )
    assert job.returncode == 0, job.stderr[-2000:]
    assert shell.run("publish") == 1
    assert "127.0.0.1:9" in shell.said
    for said in (shell.said, job.stdout, job.stderr):
        assert SECRET not in said
        assert LEARNER not in said
    assert holding(shell.folder, SECRET) == []
    # An asset shows sample rows in the UI, which an erasure deletes; nothing else does.
    of_learners = holding(shell.folder, LEARNER)
    assert {Path(name).suffix for name in of_learners} <= {".db", ".db-wal", ".db-shm"}
    import dagster as dg

    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for run in instance.get_runs():
            assert LEARNER not in json.dumps(run.run_config)
            assert LEARNER not in json.dumps(run.tags)
            messages = [entry.user_message for entry in instance.all_logs(run.run_id)]
            assert LEARNER not in "\n".join(messages)
