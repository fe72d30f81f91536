"""A read API to test: in this process, on a snapshot, called without a network."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import duckdb
from fastapi import FastAPI

from ingest.collector import tokens
from serving.api.app import ApiSettings, make_app
from serving.api.served import Following
from tests.support.collecting import LEARNER_SECRET, Answer, call_app


@dataclass
class Reading:
    """A read API with one token that may read all."""

    settings: ApiSettings
    following: Following
    app: FastAPI
    token: str

    def get(
        self,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        learner: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """With `learner` as this learner's browser asks."""
        given = {"Authorization": f"Bearer {token or self.token}", **(headers or {})}
        if learner is not None:
            given["Learner-Token"] = tokens.learner_token(
                learner, LEARNER_SECRET, valid_sec=300
            )
        address = f"{path}?{urlencode(query)}" if query else path
        return asyncio.run(call_app(self.app, "GET", address, headers=given))

    def rows(
        self, path: str, query: Mapping[str, Any] | None = None, **who: Any
    ) -> list[dict[str, Any]]:
        answer = self.get(path, query, **who)
        assert answer.status == 200, answer.body
        return list(answer.json["rows"])

    def make_token(self, name: str, **rights: Any) -> str:
        given = {"sources": [], "reads": True, "rate": 1e6, **rights}
        return tokens.create(self.settings.tokens, name, **given)[1]


@contextmanager
def reading(
    published: Path, folder: Path, *, access: str = "", now: str | None = None
) -> Iterator[Reading]:
    """`access` are the lines of the file that says who may read which courses; the
    token that may read all is `all` in it."""
    folder.mkdir(parents=True, exist_ok=True)
    book, who = folder / "tokens.json", folder / "access.csv"
    who.write_text(f"viewer,course_id,names\nall,*,yes\n{access}")
    token = tokens.create(book, "all", sources=[], reads=True, rate=1e6)[1]
    settings = ApiSettings(published, book, who, learner_secret=LEARNER_SECRET, now=now)
    following = Following(published, now=now)
    following.look()
    yield Reading(settings, following, make_app(settings, following), token)


# --- a snapshot by hand ---------------------------------------------------------------

_MODELS = {
    "progress.v_user_progress": {
        "user_id": "varchar",
        "class_id": "varchar",
        "course_id": "varchar",
        "video_max_position_sec": "integer",
        "video_completed": "integer",
        "quiz_passed": "integer",
        "quiz_score": "integer",
    },
    "analytics.v_course_progress": {
        "user_id": "varchar",
        "course_id": "varchar",
        "steps_completed": "bigint",
        "steps_total": "bigint",
        "status": "varchar",
    },
    "analytics.v_quiz_difficulty": {
        "class_id": "varchar",
        "learner_count": "bigint",
        "pass_rate": "double",
    },
}
_KEYS = {
    "v_user_progress": ("user_id", "class_id"),
    "v_course_progress": ("user_id", "course_id"),
    "v_quiz_difficulty": ("class_id",),
}


def publish_by_hand(
    folder: Path, load_id: int, *, learners: int = 3, catalogue_from: str = "2026-01-01"
) -> Path:
    """A snapshot in which every position is `load_id`, and so many steps are done: what
    a torn answer would show.

    It has three of the public models, with quizzes of 0 to 6 learners. A catalogue
    comes into force at `catalogue_from`.
    """
    path = folder / f"snapshot-{load_id:08}.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            f"""
            create schema published;
            create table published.snapshot as
            select {load_id}::bigint as load_id,
                timestamp '2026-03-01 12:00:00' + to_minutes({load_id}) as published_at,
                'events-0001' as generation;
            create schema catalogue;
            create table catalogue.catalogue_snapshot as
            select timestamp '{catalogue_from}' as valid_from;
            create table catalogue.catalogue_class as
            select 'c1' as class_id, 'k1' as course_id;
            create schema progress;
            create table progress.v_user_progress as
            select
                'u' || learner as user_id, 'c' || class as class_id, 'k1' as course_id,
                {load_id}::integer as video_max_position_sec, 0 as video_completed,
                0 as quiz_passed, null::integer as quiz_score
            from range({learners}) as l (learner), range(5) as c (class);
            create schema analytics;
            create table analytics.v_course_progress as
            select
                'u' || learner as user_id, 'k1' as course_id,
                {load_id}::bigint as steps_completed, 10::bigint as steps_total,
                'in_progress' as status
            from range({learners}) as l (learner);
            create table analytics.v_quiz_difficulty as
            select
                'c' || count as class_id, count as learner_count,
                0.5::double as pass_rate
            from range(7) as c (count);
            create schema bookkeeping;
            create table bookkeeping.public_column (
                schema_name varchar, model varchar, model_description varchar,
                place integer, column_name varchar, data_type varchar,
                description varchar, is_key boolean, counts_learners boolean
            )
            """
        )
        connection.executemany(
            "insert into bookkeeping.public_column "
            "values ($1, $2, 'Rows.', $3, $4, $5, 'What it says.', $6, $7)",
            [
                [
                    *(schema, model, place, column, kind),
                    *(column in _KEYS[model], column == "learner_count"),
                ]
                for name, columns in _MODELS.items()
                for schema, model in [name.split(".")]
                for place, (column, kind) in enumerate(columns.items(), 1)
            ],
        )
    link = folder / ".link"
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    return link.rename(folder / "warehouse.duckdb")
