"""The door to Dagster: `defs` is everything in the folder `defs/`."""

from pathlib import Path

import dagster as dg

from ingest.store.files import hide_from_strangers

hide_from_strangers()
defs = dg.load_from_defs_folder(path_within_project=Path(__file__))
