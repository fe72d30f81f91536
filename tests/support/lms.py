"""The LMS in small: a SQLite database that does what the LMS does with each event.

It is written from the LMS's rules, apart from the code that explains them, and reads
and writes its rows through SQL as the LMS does. `write_dump` writes a database as
`wrangler d1 export` does.
"""

import json
import math
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ingest.lms import importer
from ingest.lms.importer import Import
from tests.support.builders import RECEIVED_AT, Warehouse

SCHEMA = """
CREATE TABLE lms_course (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL
);
CREATE TABLE lms_class (
    id TEXT PRIMARY KEY,
    course_id TEXT NOT NULL REFERENCES lms_course(id),
    name TEXT NOT NULL,
    sys_order_index INTEGER DEFAULT 0,
    media_json TEXT,
    node_kind TEXT NOT NULL DEFAULT 'LESSON' CHECK (node_kind IN ('SECTION', 'LESSON')),
    parent_class_id TEXT
);
CREATE TABLE lms_event (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,            -- VIDEO_PING, QUIZ_SUBMIT; and more
    user_id TEXT NOT NULL,
    course_id TEXT,
    class_id TEXT,
    occurred_at TEXT NOT NULL,
    payload_json TEXT NOT NULL,
    context_json TEXT,
    created_at TEXT DEFAULT (datetime('now'))
);
CREATE TABLE v_user_progress (
    user_id TEXT NOT NULL,
    class_id TEXT NOT NULL,
    course_id TEXT NOT NULL,
    video_max_position_sec INTEGER DEFAULT 0,
    video_duration_sec INTEGER DEFAULT 0,
    video_completed INTEGER DEFAULT 0,
    quiz_passed INTEGER DEFAULT 0,
    quiz_score INTEGER DEFAULT 0,
    quiz_max_score INTEGER DEFAULT 0,
    updated_at TEXT DEFAULT (datetime('now')),
    PRIMARY KEY (user_id, class_id)
);
CREATE TABLE visit (id INTEGER PRIMARY KEY AUTOINCREMENT, page TEXT);
INSERT INTO visit (page) VALUES ('home');
CREATE INDEX idx_lms_event_user ON lms_event(user_id, class_id, type);
CREATE VIEW v_event_count AS SELECT type, count(*) AS events FROM lms_event GROUP BY 1;
"""

VIDEO_AND_QUIZ = [
    {"type": "VIDEO", "url": "https://video.example/1"},
    {"type": "QUIZ", "tally_form_id": "form-1"},
]


@dataclass
class Lms:
    """A live LMS. Time passes by ten seconds with each event that arrives."""

    path: Path
    now: datetime = datetime(2026, 3, 10, 10)

    def __post_init__(self) -> None:
        self.db = sqlite3.connect(self.path, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.executescript("pragma synchronous = off;" + SCHEMA)
        self._ids = 0

    def course(self, course_id: str = "k1") -> None:
        self.db.execute("insert into lms_course values (?, ?)", [course_id, "A course"])

    def add_class(
        self,
        class_id: str = "c1",
        course_id: str = "k1",
        *,
        name: str = "A class",
        order: Any = 1,
        media: Any = VIDEO_AND_QUIZ,
        kind: str = "LESSON",
        parent: str | None = None,
    ) -> None:
        media_json = media if isinstance(media, str) else json.dumps(media)
        self.db.execute(
            "insert into lms_class values (?, ?, ?, ?, ?, ?, ?)",
            [class_id, course_id, name, order, media_json, kind, parent],
        )

    def row(self, event_type: str, payload: Any, **columns: Any) -> str:
        """A row of `lms_event`, and nothing done with it; its id."""
        self._ids += 1
        self.now += timedelta(seconds=10)
        values = {
            "id": f"evt_{self._ids}",
            "type": event_type,
            "user_id": "u1",
            "course_id": "k1",
            "class_id": "c1",
            "occurred_at": f"{self.now.isoformat(timespec='milliseconds')}Z",
            "payload_json": payload
            if isinstance(payload, str)
            else json.dumps(payload),
            "context_json": None,
            "created_at": f"{self.now:%Y-%m-%d %H:%M:%S}",
            **columns,
        }
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        self.db.execute(
            f"insert into lms_event ({names}) values ({marks})", [*values.values()]
        )
        return str(values["id"])

    def ping(self, position: float = 10, duration: float = 100, **columns: Any) -> str:
        payload = {"position_sec": position, "duration_sec": duration}
        event_id = self.row("VIDEO_PING", payload, **columns)
        self._fold(event_id)
        return event_id

    def submit(
        self,
        score: float = 7,
        max_score: float = 10,
        *,
        mark: float = 80,
        **columns: Any,
    ) -> str:
        percentage = math.floor(score / max_score * 100 + 0.5)
        payload = {
            "quiz_id": "form-1",
            "score": score,
            "max_score": max_score,
            "percentage": percentage,
            "passed": percentage >= mark,
        }
        event_id = self.row("QUIZ_SUBMIT", payload, **columns)
        self._fold(event_id)
        return event_id

    def _fold(self, event_id: str) -> None:
        """As the LMS does when an event arrives."""
        event = self.db.execute(
            "select * from lms_event where id = ?", [event_id]
        ).fetchone()
        key = [event["user_id"], event["class_id"]]
        self.db.execute(
            "insert or ignore into v_user_progress (user_id, class_id, course_id) "
            "values (?, ?, ?)",
            [*key, event["course_id"]],
        )
        row = self.db.execute(
            "select * from v_user_progress where user_id = ? and class_id = ?", key
        ).fetchone()
        payload = json.loads(event["payload_json"])
        if event["type"] == "VIDEO_PING":
            duration = payload["duration_sec"]
            position = max(row["video_max_position_sec"], payload["position_sec"])
            self.change(
                *key,
                video_max_position_sec=position,
                video_duration_sec=duration,
                video_completed=int(position >= 0.9 * duration),
            )
            return
        score, max_score = payload["score"], payload["max_score"]
        self.change(
            *key,
            quiz_passed=int(math.floor(score / max_score * 100 + 0.5) >= 80),
            quiz_score=score,
            quiz_max_score=max_score,
        )
        if not payload["passed"]:
            self.change(*key, video_completed=0, video_max_position_sec=0)

    def change(self, user_id: str = "u1", class_id: str = "c1", **columns: Any) -> None:
        """Sets columns of a row, as of now."""
        columns["updated_at"] = f"{self.now.isoformat(timespec='milliseconds')}Z"
        names = ", ".join(f"{name} = ?" for name in columns)
        self.db.execute(
            f"update v_user_progress set {names} where user_id = ? and class_id = ?",
            [*columns.values(), user_id, class_id],
        )

    def progress(self) -> list[dict[str, Any]]:
        rows = self.db.execute(
            "select * from v_user_progress order by user_id, class_id"
        )
        return [dict(row) for row in rows]

    def wait(self, seconds: float = 300) -> None:
        self.now += timedelta(seconds=seconds)

    def delete_events(self, event_ids: Iterable[str]) -> None:
        """Their rows of progress stay as they are."""
        self.db.executemany(
            "delete from lms_event where id = ?", [[each] for each in event_ids]
        )

    def delete_row(self, user_id: str = "u1", class_id: str = "c1") -> None:
        self.db.execute(
            "delete from v_user_progress where user_id = ? and class_id = ?",
            [user_id, class_id],
        )

    def fold_again(self, user_id: str = "u1", class_id: str = "c1") -> None:
        """The row made anew from the events that are left."""
        self.delete_row(user_id, class_id)
        events = self.db.execute(
            "select id from lms_event where user_id = ? and class_id = ? "
            "order by rowid",
            [user_id, class_id],
        ).fetchall()
        for (event_id,) in events:
            self._fold(event_id)

    def dump(self) -> Path:
        return write_dump(self.path, self.path.with_suffix(".sql"))


# --- a dump as `wrangler d1 export` writes it ----------------------------------------


def write_dump(database: Path, path: Path) -> Path:
    """Tables with their rows, as they were made; then indexes, triggers, views."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        lines = ["PRAGMA defer_foreign_keys=TRUE;"]
        for name, sql in db.execute(
            "select name, sql from sqlite_master where type = 'table' "
            "and sql is not null order by tbl_name = 'sqlite_sequence', rowid"
        ).fetchall():
            lines.append(
                "DELETE FROM sqlite_sequence;"
                if name == "sqlite_sequence"
                else f"{sql};"
            )
            lines += (
                f'INSERT INTO "{name}" VALUES({",".join(map(_literal, row))});'
                for row in db.execute(f'select * from "{name}"')
            )
        lines += (
            f"{sql};"
            for (sql,) in db.execute(
                "select sql from sqlite_master where sql is not null "
                "and type in ('index', 'trigger', 'view') order by type collate nocase"
            )
        )
    db.close()
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if not isinstance(value, str):
        return str(value)
    text = value.replace("'", "''").replace("\n", "\\n").replace("\r", "\\r")
    text = f"'{text}'"
    if "\r" in value:
        text = f"replace({text},'\\r',char(13))"
    if "\n" in value:
        text = f"replace({text},'\\n',char(10))"
    return text


def move_in(warehouse: Warehouse, file: Path, **options: Any) -> Import:
    return importer.import_lms(
        file,
        warehouse.path,
        warehouse.folder / "landing",
        received_at=RECEIVED_AT,
        **options,
    )
