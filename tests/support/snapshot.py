"""What a snapshot must be."""

from pathlib import Path

import duckdb

from orchestration.derive import dbt_project
from orchestration.snapshot import snapshot
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


def publish_without_dbt(warehouse: Warehouse) -> Path:
    """Publishes what was landed with one derived table; where the snapshot is."""
    seeds = "".join(
        f"create schema if not exists {seed.split('.')[0]}; "
        f"create table if not exists {seed} (value integer); "
        for seed in dbt_project.seeds()
    )
    warehouse.execute(
        f"""
        create schema if not exists bookkeeping;
        create table if not exists bookkeeping.watermark (
            model varchar, load_id bigint, rule_fingerprint varchar,
            consumed_at timestamp, row_key varchar
        );
        delete from bookkeeping.watermark;
        insert into bookkeeping.watermark
        select 'prj_example', (select max(load_id) from raw.load), '', now(), null;
        create schema if not exists projections;
        create or replace table projections.prj_example as
        select user_id, count(*) as event_count, max(load_id) as load_id
        from raw.lms_event group by user_id;
        create schema if not exists progress;
        create view if not exists progress.v_example as
        select user_id, event_count from projections.prj_example;
        {seeds}
        """
    )
    snapshot.publish(warehouse.path)
    return snapshot_path(warehouse.path)
