"""The quick look at a chunk takes nothing that the exact look at a line does not."""

from random import Random

import duckdb
import pytest

from ingest.contracts import validation
from ingest.contracts.validation import Event
from tests.support.builders import RECEIVED_AT
from tests.support.mutated_lines import mutated_lines

FIELDS = [
    *("event_id", "type", "schema_version", "user_id", "class_id", "course_id"),
    "occurred_at",
]


@pytest.mark.parametrize("seed", range(2))
def test_what_is_clean_in_a_chunk_is_valid_and_reads_as_it_does_by_itself(
    seed: int,
) -> None:
    lines = mutated_lines(Random(seed), 20_000)
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute(
            """
            create table chunk as
            select unnest(range(len($1::varchar[]))) as line_number, unnest($1) as line
            """,
            [lines],
        )
        rows = connection.execute(
            f"select line, {', '.join(FIELDS)} "
            f"from ({validation.read_lines_sql()}) where is_clean",
            {"received_at": RECEIVED_AT},
        ).fetchall()

    assert len(rows) > 8_000
    for line, *fields in rows:
        event = validation.examine(line, RECEIVED_AT)
        assert isinstance(event, Event), line
        assert [getattr(event, name) for name in FIELDS] == fields, line
