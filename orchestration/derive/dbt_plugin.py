"""What dbt does before it opens a warehouse: dbt_project/profiles.yml names it.

dbt-duckdb's own retries take a file that is missing for one that is locked: they try
for four minutes, and then make an empty one.
"""

from pathlib import Path
from typing import Any

from dbt.adapters.duckdb.plugins import BasePlugin
from dbt_common.exceptions import DbtRuntimeError

from ingest.errors import WarehouseError
from ingest.store import database


class Plugin(BasePlugin):  # type: ignore[misc]
    """Waits for its turn. Raises dbt's error when there is no warehouse, it is locked
    for longer than `LMS_LOCK_WAIT_SEC`, or damaged."""

    def update_connection_config(self, creds: Any, config: dict[str, Any]) -> None:  # noqa: ARG002
        try:
            database.wait_until_free(Path(creds.path).resolve())
        except WarehouseError as error:
            raise DbtRuntimeError(str(error)) from error
