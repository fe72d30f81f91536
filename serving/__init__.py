"""Reading the published snapshot. Knows neither dbt nor Dagster."""
