"""Replay: the same again when no rule changed, a rebuild when one did, and the past.

A replay changes nothing of a sound state, whatever it is of and whenever it runs; it
puts a damaged one right, and what is refreshed afterwards cannot tell.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from random import Random
from typing import Any

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from builders import (
    NOW,
    Class,
    Warehouse,
    assert_same_state,
    new_warehouse,
    ping,
    quiz,
)
from ingest.warehouse import WarehouseError, open_for_writing
from orchestration import replay as replays
from orchestration import shadow, transform
from orchestration.as_of import ANSWERS, as_of
from orchestration.replay import Replay, Scope, replay
from orchestration.swap import swap, undo
from test_interruptions import KILLS, kill_after, seconds_of
from test_laws import CLASSES, COURSES, USERS, Log, a_log, dense_log

pytestmark = pytest.mark.xdist_group("replay")

VARIABLES = {"now": NOW}
STATE_SCHEMAS = ("projections", "signals", "staging")


def replayed(
    warehouse: Warehouse, scope: Scope | None = None, **options: Any
) -> Replay:
    return replay(warehouse.path, scope, **{"variables": VARIABLES, **options})


def tables_of(warehouse: Warehouse) -> dict[str, list[Any]]:
    """Every row of every table that is derived, `load_id` and bookkeeping included."""
    names = warehouse.rows(
        f"""
        select schema_name || '.' || table_name
        from duckdb_tables()
        where schema_name in {STATE_SCHEMAS}
        order by all
        """
    )
    return {
        name: warehouse.rows(
            f"select columns(lambda c: c != 'consumed_at') from {name} order by all"
        )
        for (name,) in names
    }


def copied(warehouse: Warehouse, folder: Path) -> Warehouse:
    folder.mkdir()
    copy = Warehouse(folder)
    shutil.copy(warehouse.path, copy.path)
    return copy


def land(warehouse: Warehouse, log: Log, *, first: bool, share: float = 0.5) -> None:
    """The first part of the log with its first two snapshots, or the rest."""
    cut = int(len(log.events) * share)
    snapshots = log.snapshots[:2] if first else log.snapshots[2:]
    for effective_from, classes in snapshots:
        warehouse.land_catalogue(*classes, effective_from=effective_from)
    events = log.events[:cut] if first else log.events[cut:]
    # Two loads, so that models are refreshed to a place that is not the first.
    warehouse.land(events[::2])
    warehouse.land(events[1::2])


def changes(found: Replay) -> dict[str, tuple[int, int, int]]:
    """Rows added, gone and changed, of the tables that differ."""
    return {
        each.table: (each.added, each.gone, each.changed)
        for each in found.differences
        if not each.is_empty
    }


# --------------------------------------------------------------------------------------
# No rule changed
# --------------------------------------------------------------------------------------


def scopes() -> st.SearchStrategy[Scope]:
    moments = [datetime(2026, 3, 9), datetime(2026, 3, 11), datetime(2026, 3, 16)]

    def some(values: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
        return st.lists(st.sampled_from(values), max_size=2).map(tuple)

    return st.builds(
        Scope,
        users=some(USERS),
        classes=some(CLASSES),
        courses=some([*COURSES, "k9"]),
        since=st.sampled_from([None, *moments]),
        until=st.sampled_from([None, *moments]),
    )


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    warehouse = Warehouse(tmp_path_factory.mktemp("refreshed"))
    land(warehouse, dense_log(), first=True)
    warehouse.refresh()
    return warehouse


@pytest.fixture(scope="module")
def landed_since(
    refreshed: Warehouse, tmp_path_factory: pytest.TempPathFactory
) -> Warehouse:
    """Events and a snapshot have landed that the state has not taken in."""
    warehouse = copied(refreshed, tmp_path_factory.mktemp("landed") / "since")
    land(warehouse, dense_log(), first=False)
    return warehouse


@settings(max_examples=4, deadline=None)
@given(data=st.data(), scope=scopes())
def test_a_replay_of_anything_at_any_moment_changes_nothing(
    refreshed: Warehouse, landed_since: Warehouse, data: st.DataObject, scope: Scope
) -> None:
    warehouse = data.draw(st.sampled_from([refreshed, landed_since]))
    before = warehouse.path.read_bytes()
    try:
        found = replayed(warehouse, scope, apply=True)
    except WarehouseError as error:
        assert "matches" in str(error)
    else:
        assert changes(found) == {}
        assert not (found.changed_rules or found.changed_views or found.applied)
        assert found.differences
    assert warehouse.path.read_bytes() == before
    assert [path.name for path in warehouse.folder.glob("*shadow*")] == []
