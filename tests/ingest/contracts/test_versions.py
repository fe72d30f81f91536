"""Versions: docs/versions.md does what it says, and nothing published is broken.

Each test works in a copy of the project, in processes of its own, because the contracts
are classes that are imported once.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ingest.contracts import versions
from tests.support.builders import RECEIVED_AT, Json, Warehouse, ping, ping_v1, quiz

PROJECT = Path(__file__).parents[3]
PAGE = (PROJECT / "docs" / "versions.md").read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------
# What was seen of each version
# --------------------------------------------------------------------------------------


def seen(warehouse: Warehouse) -> list[tuple[object, ...]]:
    return [
        (usage.type, usage.version, usage.status, usage.rows_seen, usage.last_seen)
        for usage in versions.usage(warehouse.path)
    ]


def test_contracts_are_listed_with_what_was_seen_of_each(warehouse: Warehouse) -> None:
    warehouse.land([ping_v1("e1"), ping_v1("e2"), b"{", ping_v1("e2"), quiz("e3")])
    assert seen(warehouse) == [
        ("QUIZ_SUBMIT", 1, "current", 1, RECEIVED_AT),
        ("VIDEO_PING", 1, "superseded, read for ever", 2, RECEIVED_AT),
        ("VIDEO_PING", 2, "current", 0, None),
    ]


def test_contracts_are_listed_for_machines(
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from orchestration.cli import app

    warehouse.land([quiz("e1")])
    monkeypatch.setenv("LMS_WAREHOUSE", str(warehouse.path))
    listed = json.loads(CliRunner().invoke(app, ["contracts", "--json"]).stdout)
    assert len(listed) == 3
    assert json.loads(Path(listed[0].pop("schema")).read_text())["title"]
    assert listed[0] == {
        "type": "QUIZ_SUBMIT",
        "version": 1,
        "status": "current",
        "rows_seen": 1,
        "last_seen": "2026-03-20T12:00:00Z",
        "fields": "quiz_id, score, max_score, passed",
    }


def test_without_a_warehouse_contracts_are_listed_as_never_counted(
    warehouse: Warehouse,
) -> None:
    assert [rows for _, _, _, rows, _ in seen(warehouse)] == [None, None, None]


def test_rows_of_which_the_class_is_gone_are_listed(warehouse: Warehouse) -> None:
    warehouse.land([ping("e1")])
    warehouse.execute("update raw.lms_event set schema_version = 9")
    assert seen(warehouse)[-1] == ("VIDEO_PING", 9, "no class has it", 1, RECEIVED_AT)


# --------------------------------------------------------------------------------------
# A copy of the project
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copy:
    folder: Path

    @property
    def contracts(self) -> Path:
        return self.folder / "ingest" / "contracts" / "events.py"

    def edit_contracts(self, old: str, new: str) -> None:
        text = self.contracts.read_text(encoding="utf-8")
        assert text.count(old) == 1
        self.contracts.write_text(text.replace(old, new), encoding="utf-8")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(self.folder),
                "DBT_TARGET_PATH": str(self.folder / "target"),
                "LMS_WAREHOUSE": str(self.folder / "warehouse.duckdb"),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def write(self) -> subprocess.CompletedProcess[str]:
        """`warehouse contracts --write`"""
        main = "from orchestration.cli import main; main()"
        return self.run("-c", main, "contracts", "--write", "--json")

    def files(self) -> dict[Path, bytes]:
        folders = (
            "ingest/contracts/schemas",
            "dbt_project/macros",
            "dbt_project/seeds",
        )
        return {
            path: path.read_bytes()
            for folder in folders
            for path in (self.folder / folder).rglob("*")
            if path.is_file()
        }


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    no_results = shutil.ignore_patterns("target", "logs", "__pycache__")
    for name in ("ingest", "orchestration", "dbt_project", "tests"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=no_results)
    shutil.copy2(PROJECT / "pyproject.toml", tmp_path)
    return Copy(tmp_path)


def test_what_was_published_cannot_be_broken_by_generating_again(copy: Copy) -> None:
    copy.edit_contracts(
        'position_sec: Annotated[float, Meta(ge=0, description="Seconds from',
        'position_sec: Annotated[float, Meta(gt=0, description="Seconds from',
    )
    before = copy.files()
    written = copy.write()
    assert written.returncode == 1
    assert written.stderr.split(": ", 1)[1] == (
        "breaks what was published; leave that class as it was and add a new version "
        "(docs/versions.md): VIDEO_PING v2: payload.position_sec: the lower bound was "
        "raised\n"
    )
    assert written.stderr in PAGE
    assert copy.files() == before
    # Nor by whoever writes the files in another way.
    generate = """
from pathlib import Path
from ingest.contracts import generated, versions
for path, text in generated.generated_files(Path("dbt_project")).items():
    path.write_text(text)
print(versions.breaking_changes())
"""
    found = copy.run("-c", generate).stdout
    assert found == (
        "['VIDEO_PING v2: payload.position_sec: the lower bound was raised']\n"
    )


def test_an_optional_field_is_published_and_stays_from_then_on(copy: Copy) -> None:
    field = "    quality: str | None = None\n"
    anchor = "    session_id: str | None = None\n"
    copy.edit_contracts(anchor, anchor + field)
    assert (
        "ingest/contracts/schemas/published/video_ping_v2/2.json" in copy.write().stdout
    )
    copy.edit_contracts(field, "")
    again = copy.write()
    assert again.returncode == 1
    assert "VIDEO_PING v2: payload.quality: removed" in again.stderr


# --------------------------------------------------------------------------------------
# The walk-through
# --------------------------------------------------------------------------------------


def pings() -> list[Json]:
    """What three learners do, who differ in nothing but the version of their player.

    9036 of 10040 ms is the threshold exactly; a millisecond before is not enough.
    """
    sent = []
    for class_id, position_ms, duration_ms in [
        ("c1", 9036, 10040),
        ("c2", 9035, 10040),
        ("c3", 62500, 100000),
        ("c3", 20999, 100000),
        ("c4", 0, 1),
    ]:
        seconds: Json = {"position": position_ms / 1000, "duration": duration_ms / 1000}
        where: Json = {"in_class": class_id}
        name = f"{class_id}-{position_ms}"
        milliseconds = {
            "video_id": "v1",
            "position_ms": position_ms,
            "duration_ms": duration_ms,
        }
        third = ping(f"{name}-3", user="v3", version=3, **where)
        sent += [
            ping_v1(f"{name}-1", user="v1", **seconds, **where),
            ping(f"{name}-2", user="v2", **seconds, **where),
            {**third, "payload": milliseconds},
        ]
    return sent


LAND_AND_DERIVE = """
import json
import sys
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

tests = "tests/ingest/contracts/test_contracts.py"
failed = pytest.main(["-q", "-p", "no:cacheprovider", tests])

from ingest.landing.event_files import land
from ingest.store import database
from orchestration.derive.dbt_runner import derive

path = Path("warehouse.duckdb").resolve()
received_at = datetime(2026, 3, 20)
[load] = land([Path("pings.ndjson")], path, received_at=received_at).loads
derived = derive(path)
with database.open_for_reading(path) as connection:
    rows = connection.execute(
        "select * exclude (course_id) from progress.v_user_progress order by all"
    ).fetchall()
result = {
    "tests": int(failed),
    "accepted": load.accepted,
    "failures": derived.as_json()["failures"],
    "rows": rows,
}
Path("result.json").write_text(json.dumps(result))
"""


@pytest.mark.long
def test_the_walk_through_adds_a_version_and_a_type(dbt: None, copy: Copy) -> None:
    classes = re.findall(r"^```python\n(class .*?)^```", PAGE, re.M | re.S)
    assert len(classes) == 2
    anchor = "class QuizSubmitV1("
    copy.edit_contracts(anchor, "\n\n".join([*classes, anchor]))

    written = set(json.loads(copy.write().stdout))
    [listed] = re.findall(r"contracts --write\n(ingest/.*?)^```", PAGE, re.M | re.S)
    about_the_type = {path for path in written if "task_submit" in path}
    assert written - about_the_type == {
        *listed.split(),
        "dbt_project/seeds/staging/event_type.csv",
    }

    fixtures = re.findall(
        r"`(tests/fixtures/contracts/\S+)`:\n\n```json\n(.*?)^```", PAGE, re.M | re.S
    )
    assert len(fixtures) == 4
    for path, content in fixtures:
        (copy.folder / path).write_text(content, encoding="utf-8")
    lines = [json.dumps(event) for event in pings()]
    (copy.folder / "pings.ndjson").write_text("\n".join(lines), encoding="utf-8")

    done = copy.run("-c", LAND_AND_DERIVE)
    assert (copy.folder / "result.json").exists(), done.stdout + done.stderr
    result = json.loads((copy.folder / "result.json").read_text())
    assert result["tests"] == 0, done.stdout
    assert result["accepted"] == 15
    assert result["failures"] == []
    progress: dict[str, list[object]] = {"v1": [], "v2": [], "v3": []}
    for user_id, *row in result["rows"]:
        progress[user_id].append(row)
    assert progress["v3"] == [
        ["c1", 9, 1, 0, None],
        ["c2", 9, 0, 0, None],
        ["c3", 62, 0, 0, None],
        ["c4", 0, 0, 0, None],
    ]
    assert progress["v1"] == progress["v2"] == progress["v3"]
