"""Running the warehouse: dbt, Dagster and the `warehouse` command. No domain rules."""

import gc

# Dagster and dbt make a million objects that live as long as the process. Looking for
# cycles after every 700 of them takes 0.6 of 6 CPU-seconds of loading, and 0.3 of the
# 2.0 that dbt takes for a small refresh; not looking at all saves no more.
gc.set_threshold(100_000)
