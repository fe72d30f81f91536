"""How long it takes to move in: a dump with 100,000 events, imported and compared.

    python benchmarks/import_lms.py [--events 100000] [--learners 200] [--classes 10]

The dump is written as `wrangler d1 export` writes it, of an LMS in which 200 learners
watch 10 videos and take the quizzes, with the LMS's own progress: 50 events a row. More
learners and classes make more rows to compare of as many events. Each step is a
process of its own, as from the shell; the target is for import and comparison together.
"""

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET_SEC = 10.0


def write_dump(path: Path, events: int, learners: int, classes: int) -> None:
    """Rows as text, at once: a database would take longer than what is measured."""
    rng = random.Random(7)
    progress: dict[tuple[str, str], list[float]] = {}
    with path.open("w", encoding="utf-8") as file:
        print("PRAGMA defer_foreign_keys=TRUE;", file=file)
        print("CREATE TABLE lms_course (id TEXT PRIMARY KEY, name TEXT);", file=file)
        print("INSERT INTO \"lms_course\" VALUES('k1','A course');", file=file)
        print(
            "CREATE TABLE lms_class (id TEXT PRIMARY KEY, course_id TEXT, name TEXT, "
            "sys_order_index INTEGER, media_json TEXT, node_kind TEXT, "
            "parent_class_id TEXT);",
            file=file,
        )
        media = json.dumps([{"type": "VIDEO"}, {"type": "QUIZ", "tally_form_id": "f"}])
        for number in range(classes):
            print(
                f"INSERT INTO \"lms_class\" VALUES('c{number}','k1','Class {number}',"
                f"{number},'{media}','LESSON',NULL);",
                file=file,
            )
        print(
            "CREATE TABLE lms_event (id TEXT PRIMARY KEY, type TEXT NOT NULL, "
            "user_id TEXT NOT NULL, course_id TEXT, class_id TEXT, "
            "occurred_at TEXT NOT NULL, payload_json TEXT NOT NULL, "
            "context_json TEXT, created_at TEXT DEFAULT (datetime('now')));",
            file=file,
        )
        for number in range(events):
            user, lesson = f"u{rng.randrange(learners)}", f"c{rng.randrange(classes)}"
            row = progress.setdefault((user, lesson), [0, 0, 0, 0])
            moment = f"2026-03-{1 + number % 28:02d}T10:00:00.{number % 1000:03d}Z"
            if rng.random() < 0.9:
                kind, position = "VIDEO_PING", rng.randrange(6001) / 10
                payload = {"position_sec": position, "duration_sec": 600}
                row[0] = max(row[0], position)
                row[1] = int(row[0] >= 540)
            else:
                kind, score = "QUIZ_SUBMIT", rng.randrange(11)
                percentage = math.floor(score * 10 + 0.5)
                passed = percentage >= 80
                payload = {
                    "quiz_id": "f",
                    "score": score,
                    "max_score": 10,
                    "percentage": percentage,
                    "passed": passed,
                }
                row[2:] = [int(passed), score]
                if not passed:
                    row[:2] = [0, 0]
            print(
                f"INSERT INTO \"lms_event\" VALUES('evt_{number}','{kind}','{user}',"
                f"'k1','{lesson}','{moment}','{json.dumps(payload)}',NULL,"
                f"'2026-03-30 10:00:00');",
                file=file,
            )
        print(
            "CREATE TABLE v_user_progress (user_id TEXT, class_id TEXT, "
            "course_id TEXT, video_max_position_sec INTEGER, "
            "video_completed INTEGER, quiz_passed INTEGER, quiz_score INTEGER, "
            "updated_at TEXT);",
            file=file,
        )
        for (user, lesson), values in progress.items():
            numbers = ",".join(map(str, values))
            print(
                f"INSERT INTO \"v_user_progress\" VALUES('{user}','{lesson}','k1',"
                f"{numbers},NULL);",
                file=file,
            )
        print("CREATE INDEX idx_lms_event_user ON lms_event(user_id);", file=file)


@dataclass(frozen=True)
class Run:
    """Seconds of the clock and of the processor, and what the command printed."""

    elapsed: float
    cpu: float
    printed: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.elapsed:5.1f} s ({self.cpu:.1f} s of the processor)"


def run(*arguments: str) -> Run:
    command = Path(sys.executable).with_name("warehouse")
    started, before = time.perf_counter(), _children_cpu()
    result = subprocess.run(
        [str(command), *arguments, "--json"], capture_output=True, text=True, check=True
    )
    return Run(
        time.perf_counter() - started,
        _children_cpu() - before,
        json.loads(result.stdout),
    )


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--learners", type=int, default=200)
    parser.add_argument("--classes", type=int, default=10)
    options = parser.parse_args()
    events = options.events
    with tempfile.TemporaryDirectory(prefix="lms-") as name:
        folder = Path(name)
        os.environ["LMS_WAREHOUSE"] = str(folder / "warehouse.duckdb")
        os.environ["LMS_LANDING"] = str(folder / "landing")
        dump = folder / "export.sql"
        write_dump(dump, events, options.learners, options.classes)
        print(f"{dump.stat().st_size / 1e6:.0f} MB, {events:,} events")
        imported = run("import-lms", str(dump))
        again = run("import-lms", str(dump))
        refreshed = run("refresh")
        compared = run("compare-lms", str(dump), "--csv", str(folder / "d.csv"))
        found = compared.printed
        assert again.printed["load"] is None
        assert again.printed["known"] == imported.printed["events"] == events
        print(f"import   {imported}")
        print(f"again    {again}, nothing new")
        print(f"refresh  {refreshed}")
        print(
            f"compare  {compared}, {found['their_rows']:,} rows, "
            f"{found['differences']:,} differences, {found['unexplained']} unexplained"
        )
        total = imported.elapsed + compared.elapsed
        cpu = imported.cpu + compared.cpu
        print(
            f"import and compare: {total:.1f} s ({cpu:.1f} s of the processor), "
            f"at most {TARGET_SEC:g} s wanted"
        )
        sys.exit(total > TARGET_SEC)


if __name__ == "__main__":
    main()
