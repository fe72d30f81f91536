"""A pipe or a device as a file: nobody knows when or whether it ends."""

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ingest.collector import tokens
from ingest.errors import WarehouseError
from ingest.landing import catalogue, quiz_register
from ingest.lms.export import open_export
from ingest.store import tombstones
from ingest.store.database import open_for_writing
from orchestration.erasure import erase
from serving import access, without_names


def open_lms_export(path: Path) -> None:
    with open_export(path):
        pass


def erase_with_key(path: Path) -> None:
    warehouse = path.with_name("w.duckdb")
    path.rename(tombstones.key_file(warehouse))
    with open_for_writing(warehouse, make=True) as connection:
        tombstones.put(
            connection, ["u1"], reason="asked", erased_at=datetime(2026, 1, 1)
        )


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "read",
    [
        *(quiz_register.read, tokens.read, open_lms_export, catalogue.read_snapshot),
        *(erase.read_users_file, without_names.read_key, erase_with_key),
        lambda path: access.scope_of(path, "ana"),
    ],
)
def test_a_pipe_is_refused_at_once(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WarehouseError, match="not a regular file"):
        read(tmp_path / "pipe")
