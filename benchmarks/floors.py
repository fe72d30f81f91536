"""What the product is measured against: the same work, written by hand, and no more.

None of it checks, explains, tests or survives anything that the product must; it says
what the work itself costs. The two scripts that derive compute every table that dbt's
incremental models keep, and `differences` proves that they are equal row for row.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

# As in dbt_project.yml; a project that changes it fails the comparison of the rows.
COMPLETION_THRESHOLD = 0.9

TABLES = (
    "projections.prj_video_progress",
    "projections.prj_quiz_result",
    "projections.prj_class_activity",
    "projections.prj_user_quarter_hour",
    "projections.prj_class_signal",
    "projections.prj_course_signal",
    "projections.prj_user_signal_total",
)

_BUFFER_BYTES = 1024 * 1024


def connect(path: Path | None = None, memory: str = "") -> duckdb.DuckDBPyConnection:
    """DuckDB as dbt opens it: its defaults, in UTC."""
    connection = duckdb.connect(str(path)) if path else duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.execute("set enable_progress_bar = false")
    if memory:
        connection.execute(f"set memory_limit = '{memory}'")
    return connection


def create_naive_table(file: Path, database: Path) -> int:
    """A durable typed table of lines that all are right; returns how many.

    Nothing is checked, no line is kept, and the same event may be there twice.
    """
    with contextlib.closing(connect(database)) as connection:
        connection.execute(
            """
            create table lms_event as
            select * from read_json(
                $file,
                format = 'newline_delimited',
                columns = {
                    event_id: 'varchar',
                    type: 'varchar',
                    schema_version: 'integer',
                    user_id: 'varchar',
                    class_id: 'varchar',
                    course_id: 'varchar',
                    occurred_at: 'timestamp',
                    payload: 'json'
                }
            )
            """,
            {"file": str(file)},
        )
        connection.execute("checkpoint")
        [[rows]] = connection.execute("select count(*) from lms_event").fetchall()
    return int(rows)


def read_gzip(file: Path) -> int:
    """Unpacks a file to its end in one buffer, and throws it away; returns its bytes.

    With the reader that landing uses, the fastest of the locked libraries.
    """
    size = 0
    buffer = bytearray(_BUFFER_BYTES)
    with pa.CompressedInputStream(pa.OSFile(str(file)), "gzip") as stream:
        while count := stream.readinto(buffer):
            size += count
    return size


def hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def merge_delta(database: Path, place: int) -> None:
    """Merges the loads past `place` into the seven tables, in one transaction.

    The delta is read and parsed once, aggregated, and joined with the state of the keys
    it touches. Delete and insert: DuckDB's MERGE costs more.
    """
    with contextlib.closing(connect(database)) as connection:
        connection.execute(merge_script(place))


def rebuild(database: Path, fresh: Path, memory: str = "3GB") -> None:
    """Computes the seven tables from all of raw into a file of their own."""
    with contextlib.closing(connect(fresh, memory)) as connection:
        connection.execute(f"attach {_text(database)} as live (read_only)")
        # What is asked for is a table: the order of its rows says nothing.
        connection.execute("set preserve_insertion_order = false")
        connection.execute(rebuild_script())
        connection.execute("checkpoint")


@dataclass(frozen=True)
class Difference:
    """Rows of one table that only one of the two files has."""

    table: str
    rows: int
    missing: int
    surplus: int


def differences(derived: Path, floor: Path) -> list[Difference]:
    """Compares the seven tables of two files row for row, repetitions included."""
    found = []
    with contextlib.closing(connect(memory="3GB")) as connection:
        connection.execute(f"attach {_text(derived)} as derived (read_only)")
        connection.execute(f"attach {_text(floor)} as floor (read_only)")
        for table in TABLES:
            columns = ", ".join(
                f'"{name}"'
                for (name, *_) in connection.execute(
                    f"describe derived.{table}"
                ).fetchall()
            )
            in_derived, in_floor = (
                f"(select {columns} from {file}.{table})"
                for file in ("derived", "floor")
            )
            [[rows, missing, surplus]] = connection.execute(
                f"""
                select
                    (select count(*) from {in_derived}),
                    (select count(*) from ({in_derived} except all {in_floor})),
                    (select count(*) from ({in_floor} except all {in_derived}))
                """
            ).fetchall()
            found.append(Difference(table, rows, missing, surplus))
    return found


def _text(path: Path) -> str:
    escaped = str(path).replace("'", "''")
    return f"'{escaped}'"


_PAYLOAD_SHAPE = (
    '{"position":"double","duration":"double","position_sec":"double",'
    '"duration_sec":"double","score":"double","max_score":"double","passed":"boolean"}'
)


def _events(raw: str, where: str) -> str:
    """Events with their payload parsed, as every script here reads them."""
    return f"""
        select
            event_id,
            type as event_type,
            schema_version,
            user_id,
            class_id,
            case
                when
                    not regexp_full_match(
                        course_id, '[\\s\\x0b\\x1c-\\x1f\\x{{85}}\\p{{Z}}]*'
                    )
                    then course_id
            end as course_id,
            occurred_at,
            time_bucket(interval 15 minute, occurred_at) as quarter_hour,
            json_transform(payload, '{_PAYLOAD_SHAPE}') as fields,
            load_id
        from {raw}.lms_event
        where {where}
    """


def _video(events: str) -> str:
    """Video progress as these events alone make it: one row per learner and class."""
    edge = COMPLETION_THRESHOLD
    return f"""
        with

        pings as (

            select
                *,
                case schema_version
                    when 1 then fields.position
                    when 2 then fields.position_sec
                end as position_sec,
                case schema_version
                    when 1 then fields.duration
                    when 2 then fields.duration_sec
                end as duration_sec
            from {events}
            where event_type = 'VIDEO_PING'

        ),

        judged as (

            select
                *,
                case
                    when position_sec > duration_sec * ({edge} + 1e-9) then true
                    when position_sec < duration_sec * ({edge} - 1e-9) then false
                    else coalesce(
                        try(
                            cast(cast(position_sec as varchar) as decimal(35, 20))
                            >= {edge}
                            * cast(cast(duration_sec as varchar) as decimal(35, 20))
                        ),
                        position_sec >= duration_sec * {edge}
                    )
                end as is_completing
            from pings

        )

        select
            user_id,
            class_id,
            count(*) as ping_count,
            max(position_sec) as max_position_sec,
            min(occurred_at) as first_ping_at,
            max(occurred_at) as last_ping_at,
            min({{'occurred_at': occurred_at, 'event_id': event_id}})
                filter (where is_completing) as completion,
            max(load_id) as load_id
        from judged
        group by user_id, class_id
    """


def _quiz(events: str) -> str:
    return f"""
        with

        submissions as (

            select
                *,
                fields.score as score,
                fields.score / fields.max_score as score_ratio,
                try_cast(fields.score as decimal(24, 6)) as exact_score
            from {events}
            where event_type = 'QUIZ_SUBMIT'

        )

        select
            user_id,
            class_id,
            count(*) as submission_count,
            min({{'occurred_at': occurred_at, 'event_id': event_id}})
                filter (where fields.passed) as passed,
            max({{
                'score_ratio': score_ratio,
                'occurred_at': occurred_at,
                'event_id': event_id,
                'score': score
            }}) as best,
            min({{
                'occurred_at': occurred_at, 'event_id': event_id, 'score': score
            }}) as first,
            max({{
                'occurred_at': occurred_at, 'event_id': event_id, 'score': score
            }}) as latest,
            cast(sum(exact_score) as decimal(38, 6)) as score_sum,
            count(exact_score) as summed_count,
            max(load_id) as load_id
        from submissions
        group by user_id, class_id
    """


def _activity(events: str) -> str:
    return f"""
        select
            user_id,
            class_id,
            count(*) as event_count,
            min(occurred_at) as first_event_at,
            max({{'occurred_at': occurred_at, 'event_id': event_id}}) as last_event,
            max({{
                'occurred_at': occurred_at,
                'event_id': event_id,
                'course_id': course_id
            }}) filter (where course_id is not null) as naming,
            max(load_id) as load_id
        from {events}
        group by user_id, class_id
    """


def _quarter_hours(events: str) -> str:
    return f"""
        select
            user_id,
            event_type,
            quarter_hour,
            count(*) as event_count,
            max(occurred_at) as last_event_at,
            max(load_id) as load_id
        from {events}
        group by user_id, event_type, quarter_hour
    """


_VIDEO_COLUMNS = """
    user_id,
    class_id,
    ping_count,
    max_position_sec,
    first_ping_at,
    last_ping_at,
    completion.occurred_at as completed_at,
    completion.event_id as completed_event_id,
    load_id
"""

_QUIZ_COLUMNS = """
    user_id,
    class_id,
    submission_count,
    passed.occurred_at as passed_at,
    passed.event_id as passed_event_id,
    best.event_id as best_event_id,
    best.occurred_at as best_at,
    best.score as best_score,
    best.score_ratio as best_score_ratio,
    first.occurred_at as first_at,
    first.event_id as first_event_id,
    first.score as first_score,
    latest.occurred_at as latest_at,
    latest.event_id as latest_event_id,
    latest.score as latest_score,
    score_sum,
    summed_count,
    case
        when summed_count = submission_count
            then cast(score_sum as double) / submission_count
    end as average_score,
    load_id
"""

_ACTIVITY_COLUMNS = """
    user_id,
    class_id,
    event_count,
    first_event_at,
    last_event.occurred_at as last_event_at,
    last_event.event_id as last_event_id,
    naming.course_id as course_id,
    naming.occurred_at as course_named_at,
    naming.event_id as course_event_id,
    load_id
"""

# The state of a key (o) folded with what is new of it (n). `least` and `greatest` pass
# over NULL, and compare structs member by member.
_VIDEO_MERGED = """
    select
        n.user_id,
        n.class_id,
        n.ping_count + coalesce(o.ping_count, 0) as ping_count,
        greatest(n.max_position_sec, o.max_position_sec) as max_position_sec,
        least(n.first_ping_at, o.first_ping_at) as first_ping_at,
        greatest(n.last_ping_at, o.last_ping_at) as last_ping_at,
        least(
            n.completion,
            case
                when o.completed_at is not null
                    then {
                        'occurred_at': o.completed_at, 'event_id': o.completed_event_id
                    }
            end
        ) as completion,
        n.load_id
    from new_video as n
    left join projections.prj_video_progress as o
        on n.user_id = o.user_id and n.class_id = o.class_id
"""

_QUIZ_MERGED = """
    select
        n.user_id,
        n.class_id,
        n.submission_count + coalesce(o.submission_count, 0) as submission_count,
        least(
            n.passed,
            case
                when o.passed_at is not null
                    then {'occurred_at': o.passed_at, 'event_id': o.passed_event_id}
            end
        ) as passed,
        greatest(
            n.best,
            case
                when o.user_id is not null
                    then {
                        'score_ratio': o.best_score_ratio,
                        'occurred_at': o.best_at,
                        'event_id': o.best_event_id,
                        'score': o.best_score
                    }
            end
        ) as best,
        least(
            n.first,
            case
                when o.user_id is not null
                    then {
                        'occurred_at': o.first_at,
                        'event_id': o.first_event_id,
                        'score': o.first_score
                    }
            end
        ) as first,
        greatest(
            n.latest,
            case
                when o.user_id is not null
                    then {
                        'occurred_at': o.latest_at,
                        'event_id': o.latest_event_id,
                        'score': o.latest_score
                    }
            end
        ) as latest,
        coalesce(n.score_sum + o.score_sum, n.score_sum, o.score_sum) as score_sum,
        n.summed_count + coalesce(o.summed_count, 0) as summed_count,
        n.load_id
    from new_quiz as n
    left join projections.prj_quiz_result as o
        on n.user_id = o.user_id and n.class_id = o.class_id
"""

_ACTIVITY_MERGED = """
    select
        n.user_id,
        n.class_id,
        n.event_count + coalesce(o.event_count, 0) as event_count,
        least(n.first_event_at, o.first_event_at) as first_event_at,
        greatest(
            n.last_event,
            case
                when o.user_id is not null
                    then {
                        'occurred_at': o.last_event_at,
                        'event_id': o.last_event_id
                    }
            end
        ) as last_event,
        greatest(
            n.naming,
            case
                when o.course_id is not null
                    then {
                        'occurred_at': o.course_named_at,
                        'event_id': o.course_event_id,
                        'course_id': o.course_id
                    }
            end
        ) as naming,
        n.load_id
    from new_activity as n
    left join projections.prj_class_activity as o
        on n.user_id = o.user_id and n.class_id = o.class_id
"""

_QUARTER_HOURS_MERGED = """
    select
        n.user_id,
        n.event_type,
        n.quarter_hour,
        n.event_count + coalesce(o.event_count, 0) as event_count,
        greatest(n.last_event_at, o.last_event_at) as last_event_at,
        n.load_id
    from new_quarter_hours as n
    left join projections.prj_user_quarter_hour as o
        on
            n.user_id = o.user_id
            and n.event_type = o.event_type
            and n.quarter_hour = o.quarter_hour
"""


def _catalogue(raw: str) -> str:
    """The catalogue's versions as temp tables: a few thousand rows."""
    return f"""
        create or replace temp table snapshots as
        with

        started as (

            select
                load_id,
                case
                    when load_id = min(load_id) over () then timestamp '0001-01-01'
                    else effective_from
                end as valid_from
            from (select distinct load_id, effective_from from {raw}.catalogue)

        ),

        intervals as (

            select
                load_id,
                valid_from,
                coalesce(
                    lead(valid_from) over (order by valid_from, load_id),
                    timestamp '9999-12-31'
                ) as valid_to
            from started

        )

        select * from intervals where valid_from < valid_to;

        create or replace temp table classes as
        with

        changes as (

            select
                c.class_id,
                c.course_id,
                c.title,
                c.position,
                c.has_video,
                c.has_quiz,
                s.valid_from,
                s.valid_to,
                case
                    when
                        lag(valid_to) over history = valid_from
                        and lag(
                            (course_id, title, position, has_video, has_quiz)
                        ) over history
                        = (course_id, title, position, has_video, has_quiz)
                        then 0
                    else 1
                end as is_change
            from {raw}.catalogue as c
            inner join snapshots as s on c.load_id = s.load_id
            window history as (partition by class_id order by valid_from)

        ),

        versions as (

            select
                *,
                sum(is_change) over (partition by class_id order by valid_from)
                    as version
            from changes

        )

        select
            class_id,
            course_id,
            has_video,
            has_quiz,
            min(valid_from) as valid_from,
            max(valid_to) as valid_to
        from versions
        group by class_id, version, course_id, title, position, has_video, has_quiz;

        create or replace temp table course_classes as
        with

        courses as (

            select
                c.course_id,
                s.valid_from,
                s.valid_to,
                list_sort(list(c.class_id)) as class_ids
            from {raw}.catalogue as c
            inner join snapshots as s on c.load_id = s.load_id
            where c.has_video = 1 or c.has_quiz = 1
            group by all

        ),

        changes as (

            select
                *,
                case
                    when
                        lag(valid_to) over history = valid_from
                        and lag(class_ids) over history = class_ids
                        then 0
                    else 1
                end as is_change
            from courses
            window history as (partition by course_id order by valid_from)

        ),

        versions as (

            select
                *,
                sum(is_change) over (partition by course_id order by valid_from)
                    as version
            from changes

        )

        select
            course_id,
            unnest(class_ids) as class_id,
            len(class_ids) as class_count,
            min(valid_from) as valid_from,
            max(valid_to) as valid_to
        from versions
        group by course_id, version, class_ids;
    """


def _class_signals(parts: str) -> str:
    """Signals of classes, from a relation with the two moments of each."""
    return f"""
        with

        steps as (

            select
                p.user_id,
                p.class_id,
                v.course_id,
                v.valid_to,
                greatest(
                    v.valid_from,
                    case when v.has_video = 1 then p.completed_at end,
                    case when v.has_quiz = 1 then p.passed_at end
                ) as occurred_at,
                case when v.has_video = 1 then p.completed_event_id end as video_id,
                case when v.has_quiz = 1 then p.passed_event_id end as quiz_id,
                p.load_id
            from {parts} as p
            inner join classes as v on p.class_id = v.class_id
            where
                (v.has_video = 1 or v.has_quiz = 1)
                and (v.has_video = 0 or p.completed_at is not null)
                and (v.has_quiz = 0 or p.passed_at is not null)

        ),

        first_steps as (

            select
                user_id,
                class_id,
                min({{
                    'occurred_at': occurred_at,
                    'valid_to': valid_to,
                    'course_id': course_id,
                    'video_id': video_id,
                    'quiz_id': quiz_id
                }}) as step,
                any_value(load_id) as load_id
            from steps
            where occurred_at < valid_to
            group by user_id, class_id

        )

        select
            'VIDEO_COMPLETED' as type,
            user_id,
            class_id,
            cast(null as varchar) as course_id,
            completed_at as occurred_at,
            [completed_event_id] as source_event_ids,
            load_id
        from {parts}
        where completed_at is not null
        union all
        select
            'QUIZ_PASSED',
            user_id,
            class_id,
            null,
            passed_at,
            [passed_event_id],
            load_id
        from {parts}
        where passed_at is not null
        union all
        select
            'STEP_COMPLETED',
            user_id,
            class_id,
            step.course_id,
            step.occurred_at,
            list_sort(
                list_filter([step.video_id, step.quiz_id], lambda x: x is not null)
            ),
            load_id
        from first_steps
    """


def _course_signals(touched: str) -> str:
    """Signals of courses, for a relation of learners and courses ('' for all)."""
    semi_join = (
        "where (s.user_id, c.course_id) in "
        f"(select (user_id, course_id) from {touched})"
        if touched
        else ""
    )
    return f"""
        with

        moments as (

            select
                s.user_id,
                c.course_id,
                c.valid_to,
                greatest(c.valid_from, max(s.occurred_at)) as occurred_at,
                list_sort(list_distinct(flatten(list(s.source_event_ids))))
                    as source_event_ids,
                max(s.load_id) as load_id
            from projections.prj_class_signal as s
            inner join course_classes as c on s.class_id = c.class_id
            {semi_join}
            {"and" if semi_join else "where"} s.type = 'STEP_COMPLETED'
            group by s.user_id, c.course_id, c.valid_from, c.valid_to, c.class_count
            having count(*) = c.class_count

        ),

        ranked as (

            select
                *,
                row_number() over (
                    partition by user_id, course_id order by occurred_at, valid_to
                ) as earliest_first
            from moments
            where occurred_at < valid_to

        )

        select
            'COURSE_COMPLETED' as type,
            user_id,
            course_id,
            occurred_at,
            source_event_ids,
            load_id
        from ranked
        where earliest_first = 1
    """


def _totals(touched: str) -> str:
    where = f"where user_id in (select user_id from {touched})" if touched else ""
    return f"""
        select
            user_id,
            count(*) filter (type = 'VIDEO_COMPLETED') as video_completed_count,
            count(*) filter (type = 'QUIZ_PASSED') as quiz_passed_count,
            count(*) filter (type = 'STEP_COMPLETED') as step_completed_count,
            count(*) filter (type = 'COURSE_COMPLETED') as course_completed_count,
            max(occurred_at) as last_signal_at,
            max(load_id) as load_id
        from (
            select user_id, type, occurred_at, load_id from projections.prj_class_signal
            {where}
            union all
            select user_id, type, occurred_at, load_id
            from projections.prj_course_signal
            {where}
        )
        group by user_id
    """


def _replace(table: str, rows: str, *keys: str) -> str:
    matches = " and ".join(f"o.{key} = n.{key}" for key in keys)
    return f"""
        delete from {table} as o using {rows} as n where {matches};
        insert into {table} by name select * from {rows};
    """


def merge_script(place: int) -> str:
    """One script; the place it has come to is kept beside the tables, as it must be."""
    merged = [
        ("video", _video("delta"), _VIDEO_MERGED, _VIDEO_COLUMNS),
        ("quiz", _quiz("delta"), _QUIZ_MERGED, _QUIZ_COLUMNS),
        ("activity", _activity("delta"), _ACTIVITY_MERGED, _ACTIVITY_COLUMNS),
        ("quarter_hours", _quarter_hours("delta"), _QUARTER_HOURS_MERGED, "*"),
    ]
    tables = (
        ("projections.prj_video_progress", "user_id", "class_id"),
        ("projections.prj_quiz_result", "user_id", "class_id"),
        ("projections.prj_class_activity", "user_id", "class_id"),
        (
            "projections.prj_user_quarter_hour",
            *("user_id", "event_type", "quarter_hour"),
        ),
    )
    projections = "".join(
        f"""
        create temp table new_{name} as {new};
        create temp table merged_{name} as
        select {columns} from ({folded});
        {_replace(table, f"merged_{name}", *keys)}
        """
        for (name, new, folded, columns), (table, *keys) in zip(
            merged, tables, strict=True
        )
    )
    return f"""
        begin;
        create table if not exists main.floor_place (load_id bigint);
        create temp table delta as {_events("raw", f"load_id > {place}")};
        {projections}
        {_catalogue("raw")}

        create temp table parts as
        with

        touched as (

            select user_id, class_id from merged_video where completed_at is not null
            union
            select user_id, class_id from merged_quiz where passed_at is not null

        )

        select
            t.user_id,
            t.class_id,
            v.completed_at,
            v.completed_event_id,
            q.passed_at,
            q.passed_event_id,
            greatest(v.load_id, q.load_id) as load_id
        from touched as t
        left join (
            select * from projections.prj_video_progress where completed_at is not null
        ) as v
            on t.user_id = v.user_id and t.class_id = v.class_id
        left join (
            select * from projections.prj_quiz_result where passed_at is not null
        ) as q
            on t.user_id = q.user_id and t.class_id = q.class_id;

        create temp table new_class_signals as {_class_signals("parts")};
        {
        _replace(
            "projections.prj_class_signal",
            "new_class_signals",
            "user_id",
            "class_id",
            "type",
        )
    }

        create temp table touched_courses as
        select distinct s.user_id, c.course_id
        from new_class_signals as s
        inner join course_classes as c on s.class_id = c.class_id
        where s.type = 'STEP_COMPLETED';
        create temp table new_course_signals as {_course_signals("touched_courses")};
        {
        _replace(
            "projections.prj_course_signal",
            "new_course_signals",
            "user_id",
            "course_id",
        )
    }

        create temp table touched_users as
        select user_id from new_class_signals
        union
        select user_id from new_course_signals;
        create temp table new_totals as {_totals("touched_users")};
        {_replace("projections.prj_user_signal_total", "new_totals", "user_id")}

        delete from main.floor_place;
        insert into main.floor_place select max(load_id) from raw.load;
        commit;
    """


def rebuild_script() -> str:
    """`raw` is that of the attached file `live`; the tables are made in this one."""
    events = f"({_events('live.raw', 'true')})"
    return f"""
        create schema projections;
        create schema signals;
        create table projections.prj_video_progress as
        select {_VIDEO_COLUMNS} from ({_video(events)});
        create table projections.prj_quiz_result as
        select {_QUIZ_COLUMNS} from ({_quiz(events)});
        create table projections.prj_class_activity as
        select {_ACTIVITY_COLUMNS} from ({_activity(events)});
        create table projections.prj_user_quarter_hour as {_quarter_hours(events)};
        {_catalogue("live.raw")}
        create temp view parts as
        select
            coalesce(v.user_id, q.user_id) as user_id,
            coalesce(v.class_id, q.class_id) as class_id,
            v.completed_at,
            v.completed_event_id,
            q.passed_at,
            q.passed_event_id,
            greatest(v.load_id, q.load_id) as load_id
        from (
            select * from projections.prj_video_progress where completed_at is not null
        ) as v
        full join (
            select * from projections.prj_quiz_result where passed_at is not null
        ) as q
            on v.user_id = q.user_id and v.class_id = q.class_id;
        create table projections.prj_class_signal as {_class_signals("parts")};
        create table projections.prj_course_signal as {_course_signals("")};
        create table projections.prj_user_signal_total as {_totals("")};
    """
