"""The LMS's signals and leaderboard beside ours: what both have, and what one has."""

import sqlite3
from pathlib import Path

import duckdb
import pytest

from ingest.lms.export import open_export
from orchestration.lms.others import (
    LeaderboardCount,
    SignalCount,
    leaderboard_counts,
    signal_counts,
)

THEIRS = """
create table lms_signal (
    id text primary key, type text, user_id text, course_id text, class_id text,
    unique (type, user_id, class_id)
);
insert into lms_signal values
    ('s1', 'VIDEO_COMPLETED', 'ü', 'k1', 'c1'),
    ('s2', 'VIDEO_COMPLETED', 'ada', 'k1', 'c1'),
    ('s3', 'QUIZ_PASSED', 'ada', 'k1', 'c1'),
    ('s4', 'COURSE_COMPLETED', 'ada', 'k1', 'final'),
    ('s5', 'SOMETHING_ELSE', 'ada', 'k1', 'c1');
"""
OURS = """
create schema signals;
create table signals.lms_signal (
    type varchar, user_id varchar, course_id varchar, class_id varchar
);
insert into signals.lms_signal values
    ('VIDEO_COMPLETED', 'ü', 'k1', 'c1'),
    ('VIDEO_COMPLETED', 'ada', 'k1', 'c2'),
    ('QUIZ_PASSED', 'ada', 'k1', 'c1'),
    ('COURSE_COMPLETED', 'ada', 'k1', null),
    ('COURSE_COMPLETED', 'ada', 'k2', null),
    ('COURSE_COMPLETED', 'bob', 'k2', null);
create schema monitoring;
create table monitoring.v_leaderboard (
    user_id varchar, video_completed_count integer, quiz_passed_count integer
);
insert into monitoring.v_leaderboard values
    ('ada', 1, 1), ('bob', 2, 1), ('eve', 1, 0), ('nil', 0, 0);
"""


@pytest.fixture
def ours() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(OURS)
    return connection


def export_of(path: Path, sql: str) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(sql)
    connection.close()
    return path


def test_signals_are_counted_by_type_and_by_who_has_them(
    tmp_path: Path, ours: duckdb.DuckDBPyConnection
) -> None:
    with open_export(export_of(tmp_path / "lms.db", THEIRS)) as export:
        counts = signal_counts(export, ours)
    assert counts == (
        SignalCount("VIDEO_COMPLETED", 1, 1, 1, 0),
        SignalCount("QUIZ_PASSED", 1, 0, 0, 0),
        SignalCount("STEP_COMPLETED", 0, 0, 0, 0),
        # Ada's second course has no place there; Bob's first one is simply missing.
        SignalCount("COURSE_COMPLETED", 1, 0, 2, 1),
    )


def test_a_leaderboard_that_multiplies_by_badges_is_told_from_one_that_differs(
    tmp_path: Path, ours: duckdb.DuckDBPyConnection
) -> None:
    theirs = """
        create table v_leaderboard (
            user_id text, video_completed_count integer, quiz_passed_count integer,
            badges_count integer
        );
        insert into v_leaderboard values
            ('ada', 1, 1, 0), ('bob', 6, 3, 3), ('eve', 3, 0, 2);
    """
    with open_export(export_of(tmp_path / "lms.db", theirs)) as export:
        counts = leaderboard_counts(export, ours)
    assert counts == LeaderboardCount(same=2, multiplied=1, different=1)


def test_an_export_without_them_is_said_to_have_none(
    tmp_path: Path, ours: duckdb.DuckDBPyConnection
) -> None:
    # A view of a table that was not exported.
    sql = "create view v_leaderboard as select user_id from badge; create table a (b);"
    with open_export(export_of(tmp_path / "lms.db", sql)) as export:
        assert signal_counts(export, ours) is None
        assert leaderboard_counts(export, ours) is None
