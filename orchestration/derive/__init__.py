"""Running dbt, and what is remembered of a run."""
