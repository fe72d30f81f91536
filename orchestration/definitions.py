"""The door to Dagster: `defs` is everything in the folder `defs/`."""

from pathlib import Path

import dagster as dg

defs = dg.Definitions.merge(
    dg.load_from_defs_folder(path_within_project=Path(__file__)),
    # One writer: more processes would only wait for each other, and cost 8 CPU-seconds.
    dg.Definitions(executor=dg.in_process_executor),
)
