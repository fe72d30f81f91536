"""What Dagster sees. Each file's assets, checks, jobs, schedules and sensors are found
by themselves: a new file needs no list to be edited."""

import gc

# Dagster and dbt make a million objects that live as long as the process. Looking for
# cycles after every 700 of them takes 0.6 of 6 CPU-seconds of loading, and a twentieth
# of a run.
gc.set_threshold(100_000)
