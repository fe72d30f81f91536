"""dbt runs inside our process, on a warehouse that others want as well."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ingest.store import database
from orchestration.derive import dbt_runner
from tests.support.builders import Warehouse, ping

OTHER = """
import sys, duckdb
try:
    duckdb.connect(sys.argv[1])
except duckdb.IOException as error:
    print(error)
"""


def test_nobody_takes_the_warehouse_between_our_wait_and_dbts_opening_it(
    derived_nothing: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = derived_nothing.copied(tmp_path)
    warehouse.land([ping("e1", position=95)])
    hold, said = database.hold, []

    def then_another_tries(*given: Any) -> duckdb.DuckDBPyConnection:
        held = hold(*given)
        other = [sys.executable, "-c", OTHER, str(warehouse.path)]
        said.append(subprocess.run(other, capture_output=True, check=True).stdout)
        return held

    monkeypatch.setattr(database, "hold", then_another_tries)
    warehouse.refresh()

    assert said
    assert all(b"Could not set lock" in each for each in said)
    assert warehouse.rows("select user_id from progress.v_user_progress") == [("u1",)]
    # Nothing of it is left open.
    other = [sys.executable, "-c", OTHER, str(warehouse.path)]
    assert subprocess.run(other, capture_output=True, check=True).stdout == b""


def test_the_manifest_is_written_whatever_the_environment_says(
    dbt: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_WRITE_JSON", "false")
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path))
    assert json.loads(dbt_runner.manifest_path().read_bytes())["nodes"]
