"""The formats of what stands in the warehouse's file, and carrying older ones over.

`raw.format` has the number of each part: `raw` itself, the outbox, the bookkeeping of
what is derived. A part's migrations are numbered, go forward only, and are made in one
transaction each: a file is of one format or of the next, whenever a process is killed.
A file of which any part is newer is refused by `database`, whoever opens it.

One more with each change of what a part's tables are.
"""

from collections.abc import Mapping
from pathlib import Path

import duckdb

FORMATS = {"raw": 3, "outbox": 2, "bookkeeping": 1}


def numbers(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """The number of each part that has one. Until format 3 only `raw` had one, and
    before format 2 it had none."""
    tables = connection.execute(
        "select sql from duckdb_tables() where database_name = current_database() "
        "and schema_name = 'raw' and table_name = 'format'"
    ).fetchall()
    if not tables:
        return {}  # or a shadow, in which it is a view
    part = "part" if "part" in tables[0][0] else "'raw' as part"
    return dict(
        connection.execute(
            f"select part, max(number) from (select {part}, number from raw.format) "
            "group by part"
        ).fetchall()
    )


def newer(connection: duckdb.DuckDBPyConnection) -> str | None:
    """What a newer version made, in words; None if nothing."""
    for part, number in sorted(numbers(connection).items()):
        known = FORMATS.get(part)
        if known is None:
            return f"it has a part {part!r} that this version does not know"
        if number > known:
            return (
                f"the format of its part {part!r} is {number}, this version knows "
                f"those up to {known}"
            )
    return None


def carry_over(
    connection: duckdb.DuckDBPyConnection,
    part: str,
    number: int,
    migrations: Mapping[int, str],
) -> None:
    """Makes a part of this number one of today's, by each migration that is between.

    `migrations` are SQL, by the number that they lead to.
    """
    # `database` imports this module.
    from ingest.store.database import transaction

    for to in range(number + 1, FORMATS[part] + 1):
        with transaction(connection):
            connection.execute(migrations[to])
            note(connection, part, to)


def note(connection: duckdb.DuckDBPyConnection, part: str, number: int) -> None:
    """Says which number a part has now; in the caller's transaction."""
    if part == "raw" and number < 3:  # its table has no parts yet
        connection.execute("delete from raw.format")
        connection.execute("insert into raw.format (number) values ($1)", [number])
        return
    connection.execute("delete from raw.format where part = $1", [part])
    connection.execute(
        "insert into raw.format (number, part) values ($1, $2)", [number, part]
    )


def raw_migrations() -> dict[int, str]:
    """The files `migrations/<number>.sql`."""
    folder = Path(__file__).with_name("migrations")
    return {
        int(path.stem): path.read_text(encoding="utf-8")
        for path in folder.glob("*.sql")
    }
