"""Publishing for readers in Dagster: the last step of what changes derived tables."""

import dagster as dg

from ingest.settings import Settings
from orchestration.defs.derived import derived_assets
from orchestration.defs.metadata import code_reference
from orchestration.defs.resources import OWNERS, POOL, one_line_failures
from orchestration.snapshot import snapshot

SNAPSHOT = dg.AssetKey(["published", "snapshot"])


@dg.asset(
    key=SNAPSHOT,
    deps=[
        key
        for key in derived_assets.keys
        if key.path[0] in ("progress", "signals", "monitoring", "analytics")
    ],
    group_name="published",
    owners=OWNERS,
    metadata={"dagster/code_references": code_reference(__file__)},
    kinds={"duckdb", "parquet"},
    pool=POOL,
)
def published_snapshot(
    settings: dg.ResourceParam[Settings],
) -> dg.MaterializeResult[None]:
    """What readers open: a consistent copy of what is derived, at one load.

    Published after a refresh that succeeded; after one that failed the last one stays.
    """
    with one_line_failures():
        published = snapshot.publish(settings.warehouse)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(published.path),
            "load_id": published.load_id,
            "published_at": f"{published.published_at}Z",
            "is_new": published.is_new,
            "events_appended": published.events,
            "event_files": published.files,
            "bytes": published.bytes,
        }
    )
