"""What a snapshot must be."""

import duckdb

from serving.published import snapshot_path
from tests.support.builders import Warehouse


def is_as_the_warehouse(warehouse: Warehouse) -> int:
    """Compares all that a snapshot copies, row by row; how often it was changed since
    it was written whole."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        current = snapshot_path(warehouse.path)
        connection.execute(f"attach '{warehouse.path}' as live (read_only)")
        connection.execute(f"attach '{current.resolve()}' as copy (read_only)")
        relations = connection.execute(
            "select schema_name, table_name, string_agg(column_name, ', ') "
            "from duckdb_columns() where database_name = 'copy' "
            "and schema_name != 'published' and table_name != 'lms_event' "
            "and not internal group by all"
        ).fetchall()
        assert len(relations) > 25
        for schema, name, columns in relations:
            rows = [
                connection.execute(
                    f"select {columns} from {database}.{schema}.{name} order by all"
                ).fetchall()
                for database in ("live", "copy")
            ]
            assert rows[0] == rows[1], (schema, name)
        [[changes]] = connection.execute(
            "select changes from copy.published.snapshot"
        ).fetchall()
        return int(changes)
