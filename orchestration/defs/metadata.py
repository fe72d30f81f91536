"""What assets and jobs show of themselves: tables of rows, row counts, code."""

from typing import Any

import dagster as dg
import duckdb

SAMPLE_ROWS = 5


def sample_table(
    rows: list[tuple[Any, ...]], columns: list[str], width: int = 80
) -> str:
    """Rows as a Markdown table; ids are opaque, so what would break it is escaped."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (
            str(value)[:width].replace("|", "\\|").replace("\n", " ").replace("`", "'")
            for value in row
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def relation_metadata(
    connection: duckdb.DuckDBPyConnection, relation: str
) -> dict[str, Any]:
    """Row count and a small sample of a table or view."""
    [[count]] = connection.execute(f"select count(*) from {relation}").fetchall()
    result = connection.execute(f"select * from {relation} limit {SAMPLE_ROWS}")
    columns = [name for name, *_ in result.description or ()]
    return {
        "dagster/row_count": dg.MetadataValue.int(count),
        "sample": dg.MetadataValue.md(sample_table(result.fetchall(), columns)),
    }


def sql_metadata(code: str | None) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"```sql\n{(code or '').strip()}\n```")
