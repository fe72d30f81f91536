"""Erasing learners from `raw`: what is about them goes, and the counts say so."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import duckdb

from ingest.store import database, tombstones
from ingest.store.tombstones import learners_of

_LETTER_TABLES = ("raw.dead_letter", "raw.discarded_letter")


@dataclass(frozen=True)
class Letters:
    """The lines of one table of letters that are about learners, by load and line."""

    table: str
    ids: tuple[tuple[int, int], ...]


def letters_of(
    connection: duckdb.DuckDBPyConnection, user_ids: Collection[str]
) -> tuple[Letters, ...]:
    """The dead and the discarded letters that are about any of the learners.

    What a line that is no event is about, `tombstones.learners_of` says.
    """
    users = set(user_ids)
    found = []
    for table in _LETTER_TABLES:
        ids = []
        result = connection.execute(f"select load_id, line_number, line from {table}")
        while rows := result.fetchmany(1000):
            ids += [
                (load_id, line_number)
                for load_id, line_number, line in rows
                if not users.isdisjoint(learners_of(line))
            ]
        found.append(Letters(table, tuple(ids)))
    return tuple(found)


def delete(
    connection: duckdb.DuckDBPyConnection, user_ids: Sequence[str]
) -> dict[str, int]:
    """Deletes the learners' events and letters; the rows by table.

    In the caller's transaction. Each line moves to `erased` in the counts of the load
    that has it: conservation holds before and after.
    """
    counts = {"raw.lms_event": _delete_events(connection, user_ids)}
    for letters in letters_of(connection, user_ids):
        counts[letters.table] = len(letters.ids)
        if letters.ids:
            _delete_letters(connection, letters)
    return counts


def tables_by_learner(
    connection: duckdb.DuckDBPyConnection,
) -> list[tuple[str, str]]:
    """Every table with a `user_id`: whoever adds one need not think of this."""
    return connection.execute(
        """
        select columns.schema_name, columns.table_name
        from duckdb_columns() as columns
        inner join duckdb_tables() as tables
            using (database_name, schema_name, table_name)
        where
            columns.database_name = current_database()
            and columns.column_name = 'user_id'
            and not tables.temporary
        order by all
        """
    ).fetchall()


def delete_the_erased(connection: duckdb.DuckDBPyConnection) -> int:
    """Deletes whoever has a tombstone from every table; how many learners that were.

    For a file that may be older than an erasure. Their bytes are still in its free
    space afterwards (`database.rewrite`). Raises `WarehouseError` without the key.
    """
    erased = tombstones.read(connection)
    if erased is None:
        return 0
    by_learner = tables_by_learner(connection)
    user_ids = {
        user_id
        for schema, table in by_learner
        for (user_id,) in connection.execute(
            f"select distinct user_id from {database.sql_name(schema, table)} "
            "where user_id is not null"
        ).fetchall()
    }
    for table in _LETTER_TABLES:
        for (line,) in connection.execute(f"select line from {table}").fetchall():
            user_ids |= learners_of(line)
    users = erased.erased(user_ids)
    if users:
        with database.transaction(connection):
            delete(connection, users)
            for schema, table in by_learner:
                connection.execute(
                    f"delete from {database.sql_name(schema, table)} "
                    "where user_id in (select unnest($1))",
                    [users],
                )
    return len(users)


def _delete_events(
    connection: duckdb.DuckDBPyConnection, user_ids: Sequence[str]
) -> int:
    users = {"users": list(user_ids)}
    # A retried line is known by its load and line, its event by file and line. Where a
    # path had two files, it does not matter which of their lines is which.
    connection.execute(
        """
        update raw.retried_letter
        set outcome = 'erased'
        from (
            select
                load_id as retry_load_id,
                file,
                line_number,
                row_number() over same_line as place
            from raw.lms_event
            where user_id in (select unnest($users))
            window same_line as (
                partition by load_id, file, line_number order by event_id
            )
        ) as event
        inner join (
            select
                retried.retry_load_id,
                retried.load_id,
                retried.line_number,
                load.file,
                row_number() over same_line as place
            from raw.retried_letter as retried
            inner join raw.load as load on retried.load_id = load.load_id
            where retried.outcome = 'accepted'
            window same_line as (
                partition by retried.retry_load_id, load.file, retried.line_number
                order by retried.load_id
            )
        ) as line using (retry_load_id, file, line_number, place)
        where
            retried_letter.retry_load_id = line.retry_load_id
            and retried_letter.load_id = line.load_id
            and retried_letter.line_number = line.line_number
        """,
        users,
    )
    connection.execute(
        """
        update raw.load
        set
            accepted = load.accepted - gone.event_count,
            erased = load.erased + gone.event_count
        from (
            select load_id, count(*) as event_count
            from raw.lms_event
            where user_id in (select unnest($users))
            group by load_id
        ) as gone
        where load.load_id = gone.load_id
        """,
        users,
    )
    [[count]] = connection.execute(
        "delete from raw.lms_event where user_id in (select unnest($users))", users
    ).fetchall()
    return int(count)


def _delete_letters(connection: duckdb.DuckDBPyConnection, letters: Letters) -> None:
    where = "(load_id, line_number) in (select unnest($loads), unnest($lines))"
    ids = {
        "loads": [load_id for load_id, _ in letters.ids],
        "lines": [line_number for _, line_number in letters.ids],
    }
    # A retry may have changed a letter's reason, which the load still counts as it was
    # then: as many as there were of a kind go from it, and the rest from the other.
    connection.execute(
        f"""
        update raw.load
        set
            conflict = load.conflict - gone.of_conflict,
            rejected = load.rejected - (gone.letter_count - gone.of_conflict),
            erased = load.erased + gone.letter_count
        from (
            select
                counted.load_id,
                counted.letter_count,
                greatest(
                    least(counted.conflicts, load.conflict),
                    counted.letter_count - load.rejected
                ) as of_conflict
            from (
                select
                    load_id,
                    count(*) as letter_count,
                    count(*) filter (reason = 'event_id_conflict') as conflicts
                from {letters.table}
                where {where}
                group by load_id
            ) as counted
            inner join raw.load as load using (load_id)
        ) as gone
        where load.load_id = gone.load_id
        """,
        ids,
    )
    connection.execute(f"delete from {letters.table} where {where}", ids)


def mentions(
    connection: duckdb.DuckDBPyConnection, user_ids: Sequence[str]
) -> dict[str, int]:
    """Rows by table that are not the learners' and have an id of theirs as a word.

    Lines of other learners, for the most part: what to do about them is for people.
    """
    ids = "|".join(re.escape(user_id) for user_id in user_ids)
    pattern = rf"(^|[^\w-])({ids})($|[^\w-])"
    found = Counter[str]()
    for table, text, condition in (
        ("raw.lms_event", "line", "user_id not in (select unnest($users))"),
        ("raw.dead_letter", "try(decode(line))", "true"),
        ("raw.discarded_letter", "concat(try(decode(line)), ' ', why)", "true"),
        ("raw.load", "file", "true"),
    ):
        parameters: dict[str, object] = {"pattern": pattern}
        if "$users" in condition:
            parameters["users"] = list(user_ids)
        [[count]] = connection.execute(
            f"""
            select count(*) from {table}
            where {condition} and regexp_matches({text}, $pattern)
            """,
            parameters,
        ).fetchall()
        if count:
            found[table] = count
    return dict(found)
