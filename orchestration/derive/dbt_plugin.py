"""What dbt does before it opens a warehouse: dbt_project/profiles.yml names it.

dbt-duckdb's own retries take a file that is missing for one that is locked: they try
for four minutes, and then make an empty one.
"""

from pathlib import Path
from typing import Any, ClassVar

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt_common.exceptions import DbtRuntimeError

from ingest.errors import WarehouseError
from ingest.store import database


class Plugin(BasePlugin):  # type: ignore[misc]
    """Waits for its turn, and keeps the file until dbt has opened it, too: nobody else
    can take it in between. Raises dbt's error when there is no warehouse, it is locked
    for longer than `LMS_LOCK_WAIT_SEC`, or damaged."""

    held: ClassVar[duckdb.DuckDBPyConnection | None] = None

    def update_connection_config(self, creds: Any, config: dict[str, Any]) -> None:
        try:
            Plugin.held = database.hold(Path(creds.path), config)
        except WarehouseError as error:
            raise DbtRuntimeError(str(error)) from error

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:  # noqa: ARG002
        self.let_go()

    @classmethod
    def let_go(cls) -> None:
        """Of what dbt did not open after all."""
        if cls.held:
            cls.held.close()
            cls.held = None
