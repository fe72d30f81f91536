"""The backup as a job: what is new since the last one, read back afterwards."""

import dagster as dg

from ingest.errors import WarehouseError
from ingest.settings import Settings
from orchestration.backup.backup import backup
from orchestration.defs.metadata import code_reference
from orchestration.defs.raw import RAW_TABLES
from orchestration.defs.resources import OWNERS, POOL, one_line_failures


@dg.asset(
    key=dg.AssetKey(["backup", "warehouse"]),
    deps=[dg.AssetKey(["raw", table]) for table in RAW_TABLES],
    group_name="backup",
    owners=OWNERS,
    pool=POOL,
    metadata={"dagster/code_references": code_reference(__file__)},
    kinds={"parquet"},
)
def warehouse_backup(
    settings: dg.ResourceParam[Settings],
) -> dg.MaterializeResult[None]:
    """What cannot be derived, as Parquet files in `LMS_BACKUP`: the same as `warehouse
    backup`."""
    with one_line_failures():
        if settings.backup is None:
            raise WarehouseError("no folder of backups: set LMS_BACKUP")
        made = backup(settings.warehouse, settings.backup, keep=settings.backups_kept)
    return dg.MaterializeResult(
        metadata={
            "folder": dg.MetadataValue.path(made.folder),
            "number": made.number,
            "through_load": made.load_id,
            "bytes": made.bytes,
            "new_bytes": made.new_bytes,
            "kept": len(made.kept),
        }
    )


backup_job = dg.define_asset_job(
    "backup",
    selection=dg.AssetSelection.assets(warehouse_backup),
    description="Backs up what is new, and reads it back.",
)
