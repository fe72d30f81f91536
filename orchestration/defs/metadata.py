"""What assets and jobs show of themselves: columns, code, row counts, samples."""

from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from orchestration.derive.columns import read_columns

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


def code_reference(file: Path | str) -> dg.CodeReferencesMetadataValue:
    """Where the asset is written down."""
    return dg.CodeReferencesMetadataValue(
        code_references=[dg.LocalFileCodeReference(file_path=str(file))]
    )


def columns_metadata(unique_id: str) -> dict[str, Any]:
    """Types, descriptions and origins of the columns of what dbt knows by this id."""
    columns = read_columns().get(unique_id, ())
    return {
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(column.name, column.type, column.description or None)
                for column in columns
            ]
        ),
        "dagster/column_lineage": dg.TableColumnLineage(
            {
                column.name: [
                    dg.TableColumnDep(dg.AssetKey([schema, table]), name)
                    for schema, table, name in column.made_from
                ]
                for column in columns
            }
        ),
    }
