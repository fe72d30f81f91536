"""dbt runs inside our process, on a warehouse that others want as well."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.store import database
from orchestration.derive import dbt_runner
from tests.support.builders import Warehouse, ping

# Holds the file for two seconds, and says when it has it.
HOLDER = """
import sys, time, duckdb
with duckdb.connect(sys.argv[1]):
    print("held", flush=True)
    time.sleep(2)
"""


def test_who_takes_the_warehouse_just_before_dbt_opens_it_is_waited_for(
    derived_nothing: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = derived_nothing.copied(tmp_path)
    warehouse.land([ping("e1", position=95)])
    holders: list[subprocess.Popen[bytes]] = []

    def taken_after_the_look(path: Path) -> None:
        """As `wait_until_free`, when another process is as quick."""
        if not holders:
            holder = subprocess.Popen(
                [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE
            )
            holders.append(holder)
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"

    monkeypatch.setattr(database, "wait_until_free", taken_after_the_look)
    warehouse.refresh()

    [holder] = holders
    assert holder.wait() == 0
    assert warehouse.rows("select user_id from progress.v_user_progress") == [("u1",)]


def test_the_manifest_is_written_whatever_the_environment_says(
    dbt: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_WRITE_JSON", "false")
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path))
    assert json.loads(dbt_runner.manifest_path().read_bytes())["nodes"]
