"""What the questions answer, in which scope, and where their numbers lead."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import duckdb
import pytest

from ingest.errors import WarehouseError
from ingest.landing.quiz_register import QuizRegister
from serving import LmsWarehouse, charts, formats, tables, without_names
from serving.access import Scope, scope_of
from serving.questions import (
    course,
    data_health,
    events,
    learner,
    needs_help,
    overview,
    quiz,
    video,
)
from serving.questions.events import Selection
from serving.questions.why import register_at, why, why_each
from serving.reader import NamesHidden, Reader
from serving.tables import Column
from tests.support.demo import NOW, Demo

NOTEBOOK = Path(__file__).parents[2] / "docs/examples/notebook.py"
COURSE = "sql-first-query"
FAILING = """
    select user_id, class_id, submission_count, best_score_ratio
    from projections.prj_quiz_result where passed_at is null
    order by submission_count desc, user_id limit 1
"""
ODD = 'zoë "z" o\'neil; 🎓'


@pytest.fixture
def scoped(demo: Demo) -> Iterator[Reader]:
    """Of one course, with names."""
    with demo.follower().reader(Scope((COURSE,))) as reader:
        yield reader


@pytest.fixture
def nameless(demo: Demo) -> Iterator[Reader]:
    with demo.follower().reader(Scope((COURSE,), sees_names=False)) as reader:
        yield reader


def test_a_viewer_reads_the_courses_that_the_file_names(tmp_path: Path) -> None:
    file = tmp_path / "access.csv"
    file.write_text("viewer,course_id,names\nana,k1,yes\nana,k2,no\nben,*,yes\n")
    assert scope_of(None, None) == Scope()
    assert scope_of(file, "ana") == Scope(("k1", "k2"), sees_names=False)
    assert scope_of(file, "ben") == Scope()
    assert scope_of(file, "eve") == scope_of(file, None) == Scope((), sees_names=False)
    file.write_text("viewer,course_id,names\nana,k1,perhaps\n")
    with pytest.raises(WarehouseError, match=r"line 2: names is 'perhaps'"):
        scope_of(file, "ana")


def test_a_scope_is_in_every_query(scoped: Reader, reader: Reader) -> None:
    of_course = reader.row(
        """
        select
            count(*) as events,
            count(distinct user_id) as learners
        from raw.lms_event
        where class_id in (
            select class_id from catalogue.catalogue_class where course_id = $course
        )
        """,
        course=COURSE,
    )
    assert events.events(scoped, Selection()).total == of_course["events"]
    assert overview.courses(scoped) == [COURSE]
    assert {row["course_id"] for row in video.videos(scoped)} == {COURSE}
    assert {row["course_id"] for row in quiz.difficulty(scoped)} == {COURSE}
    assert {row["course_id"] for row in needs_help.at_risk(scoped)} == {COURSE}
    assert {row["course_id"] for row in learner.steps(scoped, ODD)} == {COURSE}
    assert course.funnel(scoped, "data-literacy").steps == []
    assert course.learners(scoped, "data-literacy") == []
    assert course.leaderboard(scoped, "data-literacy") == []
    assert video.retention(scoped, "data-literacy/charts").bins == []
    assert (
        sum(row["event_count"] for row in overview.daily(scoped).events)
        == (of_course["events"])
    )
    [learners] = [k for k in overview.kpis(scoped) if k.name == "learner_count"]
    assert learners.value == formats.number(of_course["learners"])
    with pytest.raises(WarehouseError, match="every course"):
        data_health.loads(scoped)
    with pytest.raises(WarehouseError, match="no such class"):
        why(scoped, ODD, "data-literacy/charts")


def test_nobody_is_named_and_no_number_is_of_few_for_who_may_not_see_names(
    nameless: Reader,
) -> None:
    for question in (
        lambda: needs_help.at_risk(nameless),
        lambda: course.learners(nameless, COURSE),
        lambda: course.leaderboard(nameless, COURSE),
        lambda: video.viewers(nameless, f"{COURSE}/joins"),
        lambda: learner.record(nameless, ODD),
        lambda: events.events(nameless, Selection()),
    ):
        with pytest.raises(NamesHidden):
            question()
    first, *_ = course.funnel(nameless, COURSE).steps
    assert (first["step"], first["reached_count"], first["lost_share"]) == (
        *(1, None),
        None,
    )
    shown = [
        *(row["learner_count"] for row in course.statuses(nameless, COURSE)),
        *(row["viewer_count"] for row in video.videos(nameless)),
        *(row["learner_count"] for row in video.coverage(nameless, f"{COURSE}/joins")),
        *(row["user_count"] for row in overview.daily(nameless).events),
    ]
    assert None in shown
    assert all(count is None or count == 0 or count >= 5 for count in shown)


def test_why_names_the_furthest_ping_and_the_best_submission(reader: Reader) -> None:
    stopped = reader.row(
        """
        select user_id, class_id, max_position_sec
        from projections.prj_video_progress
        where completed_at is null
            and class_id in (select class_id from catalogue.catalogue_class)
        order by user_id, class_id limit 1
        """
    )
    answer = why(reader, stopped["user_id"], stopped["class_id"])
    assert not answer.is_done
    assert answer.because.startswith("the video")
    duration = reader.row(
        "select duration_sec from analytics.v_video_engagement "
        "where user_id = $user_id and class_id = $class_id",
        **{name: stopped[name] for name in ("user_id", "class_id")},
    )["duration_sec"]
    assert answer.parts[0].because == (
        f"the furthest ping is {formats.plain(stopped['max_position_sec'])} of "
        f"{formats.plain(duration)} s; {formats.plain(0.9 * duration)} are needed"
    )
    failing = reader.row(FAILING)
    [part] = [
        part
        for part in why(reader, failing["user_id"], failing["class_id"]).parts
        if part.part == "quiz"
    ]
    assert part.because.startswith(
        f"{failing['submission_count']} submissions, best "
        f"{formats.plain(failing['best_score_ratio'] * 100)} %"
    )
    assert why(reader, ODD, f"{COURSE}/joins").is_done
    assert "not in the catalogue" in why(reader, ODD, "product-tour").because
    with pytest.raises(WarehouseError, match="no such class"):
        why(reader, ODD, "nowhere")
    with pytest.raises(WarehouseError, match="nobody: no event of this learner"):
        why(reader, "nobody", f"{COURSE}/joins")


@dataclass
class Counting:
    """A connection that counts what it is asked."""

    connection: duckdb.DuckDBPyConnection
    asked: int = 0

    def execute(self, *arguments: Any) -> duckdb.DuckDBPyConnection:
        self.asked += 1
        return self.connection.execute(*arguments)


def test_why_asks_as_often_for_all_steps_as_for_one(reader: Reader) -> None:
    classes = [
        row["class_id"]
        for row in reader.rows("from catalogue.catalogue_class order by class_id")
    ]
    failing = reader.row(FAILING)
    user, one = failing["user_id"], failing["class_id"]
    asked = []
    for chosen in ([one], classes[::-1]):
        counting = Counting(reader.connection)
        counted = replace(reader, connection=cast(Any, counting))
        answers = why_each(counted, user, chosen)
        assert [answer.class_id for answer in answers] == chosen
        assert answers[chosen.index(one)] == why(reader, user, one)
        asked.append(counting.asked)
    assert len(classes) > 10
    assert asked[0] == asked[1] <= 4


def test_a_quiz_says_the_forms_pass_mark_or_the_lowest_that_passed(
    reader: Reader, tmp_path: Path
) -> None:
    failing = reader.row(FAILING)
    form, lowest = reader.row(
        """
        select max(quiz_id), min(score / max_score) filter (where passed)
        from staging.stg_quiz_submission where class_id = $class_id
        """,
        class_id=failing["class_id"],
    ).values()

    def said(register: QuizRegister) -> str:
        [part] = [
            part
            for part in why(
                reader, failing["user_id"], failing["class_id"], register
            ).parts
            if part.part == "quiz"
        ]
        return part.because.split("; ")[1]

    known = f"the lowest that passed has {formats.plain(lowest * 100)} %"
    assert said(register_at(tmp_path / "none.csv")) == known
    file = tmp_path / "register.csv"
    head = "form_id,class_id,score_field,max_score,pass_mark,keep_free_text\n"
    file.write_text(f"{head}other,,score,10,55,no\n")
    assert said(register_at(file)) == known
    file.write_text(f"{head}{form},,score,10,82.5,no\n")
    assert said(register_at(file)) == "the form passes at 82.5 %"
    file.write_text("damaged")
    assert said(register_at(file)) == known


def test_a_number_leads_to_as_many_events_as_it_counts(reader: Reader) -> None:
    class_id = f"{COURSE}/joins"
    for row in video.retention(reader, class_id).bins[::12]:
        found = events.events(
            reader, Selection(kind="bin", class_id=class_id, bin=row["bin"])
        )
        assert found.total == row["ping_count"]
    for row in overview.daily(reader).events[::9]:
        selection = Selection(day=f"{row['event_date']}", type=row["event_type"])
        assert events.events(reader, selection).total == row["event_count"]
    for risk in needs_help.at_risk(reader)[::6]:
        selection = Selection(
            kind="risk",
            user=risk["user_id"],
            course=risk["course_id"],
            reason=risk["reason"],
        )
        found = events.events(reader, selection)
        ids = [row["event_id"] for row in found.rows]
        assert sorted(ids) == sorted(risk["source_event_ids"])
        assert all(row["file"] and row["line_number"] for row in found.rows)


@pytest.mark.parametrize("kind", ["all courses", "one course"])
def test_the_last_days_are_counted_as_the_events_say(
    kind: str, reader: Reader, scoped: Reader
) -> None:
    asked, course_id = (reader, None) if kind == "all courses" else (scoped, COURSE)
    of_days = """
        with
        events as (
            select cast(occurred_at as date) as day, type, user_id from raw.lms_event
            where
                $course is null
                or class_id in (
                    select class_id from catalogue.catalogue_class
                    where course_id = $course
                )
        )
        select day, {}, count(*), count(distinct user_id) from events
        where day > (select max(day) from events) - 5
        group by all order by all
    """

    def counted(by: str) -> list[tuple[Any, ...]]:
        sql = of_days.format(by)
        return reader.connection.execute(sql, {"course": course_id}).fetchall()

    found = overview.daily(asked, days=5)
    assert [tuple(row.values()) for row in found.events] == counted("type")
    assert [tuple(row.values()) for row in found.learners] == [
        (day, users) for day, _, _, users in counted("'all'")
    ]
    assert 1 < len(found.learners) <= 5
    every, signals = (overview.daily_signals(asked, days) for days in (10_000, 5))
    newest = every[-1]["signal_date"]
    last = [row for row in every if row["signal_date"] > newest - timedelta(5)]
    assert signals == last
    assert 0 < len(last) < len(every)


def test_the_newest_events_are_the_first_of_all(reader: Reader) -> None:
    chosen = Selection(class_id=f"{COURSE}/joins")
    every = events.events(reader, chosen, limit=100_000)
    few = events.events(reader, chosen, limit=7)
    assert len(every.rows) == every.total == few.total > 7
    assert few.rows == every.rows[:7]
    moments = [(row["occurred_at"], row["event_id"]) for row in every.rows]
    assert moments == sorted(moments, reverse=True)


def test_those_who_are_lost_at_a_step_are_as_many_as_it_lost(reader: Reader) -> None:
    for step in course.funnel(reader, COURSE).steps:
        selection = Selection(kind="lost", course=COURSE, step=step["step"])
        rows = events.events(reader, selection, limit=100_000).rows
        assert len({row["user_id"] for row in rows}) == step["lost_count"]


def test_an_address_names_a_selection_and_nothing_else() -> None:
    selection = Selection(kind="risk", user=ODD, reason="inactive", course="a&b=c")
    page, _, query = selection.address().partition("?")
    from urllib.parse import parse_qsl

    assert page == "events"
    assert Selection.of_address(dict(parse_qsl(query))) == selection
    for wrong in ({"kind": "drop table"}, {"kind": "bin"}, {"load": "x"}):
        with pytest.raises(WarehouseError, match="names no events"):
            Selection.of_address(wrong)


def test_the_whole_record_of_a_learner_is_one_document_and_one_table(
    reader: Reader,
) -> None:
    record = learner.record(reader, ODD)
    again = json.loads(tables.as_json(record))
    [count] = reader.rows(
        "select count(*) as n from raw.lms_event where user_id = $user", user=ODD
    )
    assert again["user_id"] == ODD
    assert len(again["events"]) == count["n"]
    assert again["events"][0]["occurred_at"].endswith("Z")
    parts = [row["part"] for row in learner.record_rows(record)]
    assert parts.count("events") == count["n"]
    assert {"courses", "steps", "videos", "quizzes", "signals", "badges"} < set(parts)


def test_text_is_escaped_in_a_table_and_no_formula_in_a_file() -> None:
    rows = [{"id": "<img src=x onerror=alert(1)>", "count": 1234, "at": None}]
    written = tables.html(
        (
            Column("id", "<id>", formats.text, lambda _: 'javascript:"x"'),
            Column("count", "count", formats.number),
            Column("at", "at", formats.moment),
        ),
        rows,
        caption="a & b",
    )
    assert "<img" not in written
    assert "<id>" not in written
    assert 'href="javascript:&quot;x&quot;"' in written
    assert ">1,234<" in written
    assert tables.as_csv([{"id": "=1+1"}, {"id": "-x"}, {"id": "fine"}]) == (
        "id\n'=1+1\n'-x\nfine\n"
    )


def test_a_chart_says_in_words_what_it_shows(reader: Reader) -> None:
    funnel = course.funnel(reader, COURSE)
    drawn = charts.funnel(funnel.steps, funnel.started)
    assert f"{funnel.started} learners started" in drawn.words
    assert funnel.steepest is not None
    assert funnel.steepest["title"] in drawn.words
    assert drawn.chart.to_dict()["description"] == drawn.words


def test_every_chart_keeps_the_schema_of_vega_lite(reader: Reader) -> None:
    """A page draws them unchecked."""
    funnel = course.funnel(reader, COURSE)
    learner_id = "learner-0016"
    days = {"day": "event_date", "kind": "event_type", "count": "event_count"}
    made = {
        "daily": charts.daily(overview.daily(reader).events, **days, noun="events"),
        "active_learners": charts.active_learners(overview.daily(reader).learners),
        "funnel": charts.funnel(funnel.steps, funnel.started),
        "retention": charts.retention(video.retention(reader, f"{COURSE}/joins").bins),
        "tenths": charts.tenths(video.coverage(reader, f"{COURSE}/joins"), what="a"),
        "quiz_rates": charts.quiz_rates(quiz.difficulty(reader)),
        "coverage_strips": charts.coverage_strips(learner.videos(reader, learner_id)),
        "timeline": charts.timeline(learner.daily(reader, learner_id)),
    }
    assert made.keys() == {
        name
        for name, function in vars(charts).items()
        if getattr(function, "__annotations__", {}).get("return") is charts.Chart
    }
    for chart in made.values():
        checked = chart.chart.to_dict()
        del checked["config"]
        assert chart.spec == checked
        assert chart.spec["description"] == chart.words


def test_a_chart_of_many_quizzes_draws_the_hardest(reader: Reader) -> None:
    [hardest, *_] = quiz.difficulty(reader)
    rows = [{**hardest, "title": f"quiz {number}"} for number in range(500)]
    drawn = charts.quiz_rates(rows)
    assert "500 quizzes, hardest first, the first 30 drawn" in drawn.words
    [values] = drawn.spec["datasets"].values()
    assert {row["quiz"] for row in values} == {f"quiz {n}" for n in range(30)}


def test_a_snapshot_without_names_has_nothing_of_what_was_discarded(
    demo: Demo, tmp_path: Path
) -> None:
    source, path = tmp_path / "source.duckdb", tmp_path / "w.duckdb"
    source.write_bytes(demo.published.resolve().read_bytes())
    with duckdb.connect(str(source)) as connection:
        connection.execute(
            """
            insert into published.discarded_letter by name
            select
                1 as load_id, 'f' as file, 1 as line_number, 'wrong_type' as reason,
                'names learner-secret' as detail, 1 as line_bytes, '' as line_sha256,
                now()::timestamp as first_seen, 1 as attempts,
                now()::timestamp as discarded_at, 'ops' as discarded_by,
                'asked by learner-secret' as why, 'learner-secret' as faults
            """
        )
    without_names.write(source, path, b"a key of this test alone", now=NOW)
    assert b"learner-secret" not in path.read_bytes()
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute(
            "select table_name from duckdb_tables() where schema_name = 'published'"
        ).fetchall() == [("snapshot",)]


def test_a_snapshot_without_names_has_no_learners_id_in_any_byte(
    demo: Demo, reader: Reader, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"a key of this test alone")
    path = tmp_path / "copy" / "w.duckdb"
    path.parent.mkdir()
    written = without_names.write(
        demo.published, path, without_names.read_key(key), now=NOW
    )
    users = [
        row["user_id"]
        for row in reader.rows("select distinct user_id from raw.lms_event")
    ]
    assert written.learners == len(users)
    content = path.read_bytes()
    assert not [user for user in users if user.encode() in content]
    some = reader.rows("select event_id from raw.lms_event limit 500")
    assert not [row for row in some if row["event_id"].encode() in content]
    with duckdb.connect(str(path), read_only=True) as connection:
        texts = connection.execute(
            """
            select schema_name, table_name, column_name from duckdb_columns()
            where data_type in ('VARCHAR', 'VARCHAR[]', 'JSON') and not internal
            and database_name = current_database()
            """
        ).fetchall()
        # Compressed text would not be found in the bytes: each value is looked at, too.
        for schema, table, column in texts:
            found = connection.execute(
                f'select count(*) from "{schema}"."{table}" where '
                f"regexp_matches(cast(\"{column}\" as varchar), 'learner-00|o.neil')"
            ).fetchone()
            assert found == (0,), (schema, table, column)
    from serving.reader import Follower

    with Follower(path, now=NOW).reader(Scope()) as copy:
        for same in (
            lambda each: course.funnel(each, COURSE),
            quiz.difficulty,
            video.videos,
            overview.daily,
            lambda each: [(kpi.name, kpi.value) for kpi in overview.kpis(each)],
        ):
            assert same(copy) == same(reader)
        [risk, *_] = needs_help.at_risk(copy)
        selection = Selection(
            kind="risk",
            user=risk["user_id"],
            course=risk["course_id"],
            reason=risk["reason"],
        )
        assert events.events(copy, selection).total == risk["event_count"]
    with pytest.raises(WarehouseError, match="is there already"):
        without_names.write(demo.published, path, b"", now=None)


def test_the_notebook_answers_its_three_questions(demo: Demo) -> None:
    spec = importlib.util.spec_from_file_location("notebook", NOTEBOOK)
    assert spec is not None
    assert spec.loader is not None
    notebook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notebook)
    _, answers = notebook.app.run()

    warehouse = LmsWarehouse(demo.warehouse.path)
    completions = warehouse.signals(signal_type="COURSE_COMPLETED")
    assert answers["finished"]["completed"].sum() == len(completions) > 0
    courses = set(warehouse.query("from analytics.v_course_funnel")["course_id"])
    assert set(answers["steepest"]["course_id"]) == courses
    newest = completions.sort_values("occurred_at").iloc[-1]
    named = set(newest["source_event_ids"])
    assert set(answers["evidence"]["event_id"]) == named != set()


@pytest.mark.parametrize("reason", [None, "inactive", "failing_quiz"])
@pytest.mark.parametrize("course_id", [None, COURSE, "no-such-course"])
def test_who_needs_help_is_counted_by_learner(
    reader: Reader, reason: str | None, course_id: str | None
) -> None:
    chosen = reader.only(course_id)
    rows = needs_help.at_risk(chosen, reason)
    found = needs_help.summary(chosen, reason)
    assert found.row_count == len(rows)
    assert found.learner_count == len({row["user_id"] for row in rows})
    assert found.by_reason == {
        each: len({row["user_id"] for row in rows if row["reason"] == each})
        for each in {row["reason"] for row in rows}
    }
    assert needs_help.at_risk(chosen, reason, limit=2) == rows[:2]


def test_who_needs_help_is_told_in_words() -> None:
    by_reason = {"failing_quiz": 1, "inactive": 2000}
    assert needs_help.Summary(2500, 2000, by_reason).in_words() == (
        "2,000 learners need help. "
        "2,000: Inactive: started, not completed, no event for days; "
        "1: Failing a quiz: many submissions, none passed."
    )
