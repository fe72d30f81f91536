"""What Dagster sees: assets, checks, jobs, schedules, sensors."""
