"""Event histories of any size, made by DuckDB: seeded, so the same everywhere.

A history is a row of slices of time. A slice's file has what was delivered in it: its
own events but those that are late, the late ones of the slice before, repetitions of
both (network retries), some conflicts and 0.1 % broken lines of a dozen kinds.

    python -m benchmarks.histories events.ndjson --events 1000000
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import duckdb
import typer

DAYS = 180
FIRST_DAY = "2026-01-01"

# Sessions have about 30 events; what is too much is cut off.
_EVENTS_PER_SESSION = 20

# In SQL, by the number of a course: 5, 12 or 19. Many complete a short one.
_CLASSES = "(5 + course % 3 * 7)"
_HAS_QUIZ = "(class % 5 in (1, 3))"


@dataclass(frozen=True)
class History:
    """A history of `slices` files of `events` lines' worth of events each.

    40,000 learners have 50 million events: 1,250 each.
    """

    events: int = 1_000_000
    slices: int = 1
    seed: int = 1

    @property
    def learners(self) -> int:
        return max(self.events * self.slices // 1250, 20)

    @property
    def courses(self) -> int:
        return max(self.learners // 400, 4)

    def write_catalogue(self, path: Path) -> None:
        """A CSV snapshot: each class has a video, two of five a quiz, too."""
        _copy(
            f"""
            select
                'course-' || course || '-class-' || class as class_id,
                'course-' || course as course_id,
                'Class ' || class || ' of course ' || course as title,
                class as position,
                1 as has_video,
                case when {_HAS_QUIZ} then 1 else 0 end as has_quiz
            from
                range({self.courses}) as courses (course),
                range({_CLASSES}) as classes (class)
            order by course, class
            """,
            path,
            "format csv, header true",
        )

    def write_events(
        self, path: Path, number: int, *, clean: bool = False, at_most: int = 0
    ) -> None:
        """The lines delivered in slice `number`, NDJSON; `.gz` and `.zst` are packed.

        `clean` leaves out what is late, repeated, in conflict or broken. `at_most`
        limits it to so many of the slice's own events, the earliest.
        """
        compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix, "none")
        own = self._events_sql(number, at_most or self.events)
        before = self._events_sql(number - 1, self.events)
        lines = f"select line, occurred_at as delivered_at from ({own})"
        if not clean:
            lines = f"""
            with

            own as ({own}),

            earlier as (

                select * from ({before})
                where {number} > 0
                limit {(at_most or self.events) // 20}

            )

            select line, occurred_at as delivered_at from own
            where chance % 50 != 0
            union all
            select line, {_hours_after("occurred_at", 72)} from earlier
            where chance % 50 < 10
            union all
            select line, {_hours_after("occurred_at", 1)} from own
            where chance % 100 = 1
            union all
            select
                replace(line, '_rate":1.0', '_rate":1.5'),
                occurred_at
            from own
            where chance % 5000 = 2 and starts_with(line, '{{"event_id":"0')
            union all
            select {_broken("line", "chance // 1000")}, occurred_at from own
            where chance % 1000 = 3
            """
        _copy(
            f"select line from ({lines}) order by delivered_at",
            path,
            "format csv, header false, delimiter '\x01', quote '', escape '', "
            f"compression {compression}",
        )

    def _events_sql(self, number: int, at_most: int) -> str:
        sessions = self.events // _EVENTS_PER_SESSION
        seconds = DAYS * 86_400 / self.slices
        return f"""
        with

        sessions as (

            select
                session,
                floor({self.learners} * {_uniform("session", 1)} ** 1.5)::int
                    as learner,
                {_uniform("session", 2)} as moment,
                {_uniform("session", 3)} as habit,
                {_uniform("session", 4)} as stays,
                {_uniform("session", 5)} as step
            from range({number * sessions}, {(number + 1) * sessions}) as t (session)

        ),

        placed as (

            select
                *,
                (hash(learner, {self.seed}) % {self.courses})::int as course,
                -- Each learner begins the course at another class: every slice has all
                -- classes, those with a quiz, too.
                (
                    floor(
                        {_CLASSES} * ({number} + step) / {self.slices}
                    )::int
                    + (hash(learner) % 100)::int
                ) % {_CLASSES} as class,
                timestamp '{FIRST_DAY}'
                + to_microseconds(
                    ({number * seconds} * 1e6 + moment * {seconds} * 0.95e6)::bigint
                ) as started_at
            from sessions

        ),

        shaped as (

            select
                *,
                180 + (hash(course, class) % 9000) / 10 as duration,
                -- Most begin at the start, some go on where they were.
                case when habit < 0.7 then 0.0 else habit * 200 end as first_position,
                -- Most stay to the end, some leave early.
                case when stays < 0.6 then 1.0 else stays end as share,
                {_HAS_QUIZ} and habit > 0.5 as has_quiz
            from placed

        ),

        steps as (

            select
                *,
                unnest(
                    range(
                        (greatest(duration * share - first_position, 10) / 10)::int
                        + case when has_quiz then 1 + (hash(session) % 3)::int else 0
                        end
                    )
                ) as number,
                (greatest(duration * share - first_position, 10) / 10)::int as pings
            from shaped

        ),

        events as (

            select
                *,
                hash(session, number, {self.seed}) as chance,
                started_at + to_microseconds(
                    number * 10000000 + (hash(number, session) % 900000)::bigint
                ) as occurred_at,
                least(
                    -- Some jump ahead half-way.
                    first_position
                    + number * 10
                    + case when habit > 0.9 and number > pings // 2 then 60 else 0 end,
                    duration
                ) as position,
                'course-' || course || '-class-' || class as class_id
            from steps
            order by occurred_at
            limit {at_most}

        )

        select
            chance,
            occurred_at,
            concat(
                '{{"event_id":"',
                md5(concat(session, '/', number, '/', {self.seed}))::uuid,
                case when number < pings then '","type":"VIDEO_PING"'
                else '","type":"QUIZ_SUBMIT"' end,
                case when number < pings then ',"schema_version":2'
                else ',"schema_version":1' end,
                ',"user_id":"learner-', learner,
                '","class_id":"', class_id,
                '","course_id":"course-', course,
                '","occurred_at":"', strftime(occurred_at, '%Y-%m-%dT%H:%M:%S.%fZ'),
                case
                    when number < pings then concat(
                        '","payload":{{"video_id":"video-', class_id,
                        '","position_sec":', round(position, 1),
                        ',"duration_sec":', duration,
                        ',"playback_rate":1.0,"session_id":"s-', session, '"}}}}'
                    )
                    else concat(
                        '","payload":{{"quiz_id":"quiz-', class_id,
                        '","score":', chance % 11,
                        ',"max_score":10,"passed":',
                        case when chance % 11 >= 6 then 'true' else 'false' end, '}}}}'
                    )
                end
            ) as line
        from events
        """


def _uniform(column: str, number: int) -> str:
    return f"(hash({column}, {number}) % 1000003 / 1000003.0)"


def _hours_after(column: str, hours: int) -> str:
    return f"{column} + interval {hours} hour"


def _broken(line: str, kind: str) -> str:
    """The line with one of a dozen faults."""
    faults = (
        f"{line}[:100]",
        "'not JSON at all'",
        f"'[' || {line} || ']'",
        f"replace({line}, '\"user_id\":', '\"user\":')",
        f'replace({line}, \'"class_id":"\', \'"class_id":" \')[:60] || \'"}}\'',
        f'replace({line}, \'"type":"\', \'"type":"NO_\')',
        f"replace({line}, '_version\":', '_version\":9')",
        f"replace({line}, '_sec\":', '_sec\":-')",
        f'replace({line}, \'"occurred_at":"2026\', \'"occurred_at":"1926\')',
        f"replace({line}, 'Z\",\"payload', '\",\"payload')",
        f'replace({line}, \'"payload":\', \'"payload":7,"was":\')',
        f"replace({line}, '_rate\":1.0', '_rate\":NaN')",
        f"replace({line}, '_id\":\"', '_id\":')",
    )
    cases = " ".join(f"when {at} then {fault}" for at, fault in enumerate(faults))
    return f"case ({kind}) % {len(faults)} {cases} end"


def _copy(query: str, path: Path, options: str) -> None:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("set memory_limit = '4GB'")
        target = str(path).replace("'", "''")
        connection.execute(f"copy ({query}) to '{target}' ({options})")


def main(
    path: Annotated[Path, typer.Argument(help="Where to; .gz and .zst are packed.")],
    events: int = 1_000_000,
    slices: int = 1,
    number: int = 0,
    seed: int = 1,
    clean: bool = False,
) -> None:
    """Writes one slice of a history, and its catalogue beside it."""
    history = History(events, slices, seed)
    history.write_events(path, number, clean=clean)
    history.write_catalogue(path.with_suffix(".catalogue.csv"))


if __name__ == "__main__":
    typer.run(main)
