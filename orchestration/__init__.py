"""Running the warehouse: dbt, Dagster and the `warehouse` command. No domain rules."""
