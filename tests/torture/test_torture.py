"""A short form of each part of `make torture`, and that the disk does what it says."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disk import Disk, Fault, mounted
from tests.support.torture import (
    clocks,
    damage,
    disk_faults,
    histories,
    kills,
    load,
    spool_faults,
    writers,
)
from tests.support.torture.tally import Tally


def assert_held(tally: Tally, at_least: int) -> None:
    assert tally.broken == []
    assert tally.tried >= at_least


# --- the disk -------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk") as disk:
        yield disk


def survivors(disk: Disk, folder: Path) -> list[dict[str, bytes]]:
    """What 30 cuts leave, each by chances of its own."""
    left = []
    for seed in range(30):
        disk.survive(folder / str(seed), seed)
        left.append(
            {file.name: file.read_bytes() for file in (folder / str(seed)).iterdir()}
        )
    return left


def test_a_cut_forgets_what_was_not_synced_and_nothing_else(
    disk: Disk, tmp_path: Path
) -> None:
    with (disk.folder / "a").open("wb", buffering=0) as file:
        file.write(b"synced")
        os.fsync(file.fileno())
        file.write(b"not synced")
    left = survivors(disk, tmp_path / "left")
    assert all(each["a"].startswith(b"synced") for each in left)
    assert {b"synced", b"syncednot synced"} < {each["a"] for each in left}


def test_a_rename_is_there_after_a_cut_once_its_folder_is_synced(
    disk: Disk, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        with (disk.folder / name).open("wb", buffering=0) as file:
            file.write(name.encode())
            os.fsync(file.fileno())
    os.replace(disk.folder / "a", disk.folder / "b")
    found = survivors(disk, tmp_path / "before")
    assert {tuple(sorted(each.items())) for each in found} == {
        (("a", b"a"), ("b", b"b")),
        (("b", b"a"),),
    }
    folder = os.open(disk.folder, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    assert survivors(disk, tmp_path / "after") == [{"b": b"a"}] * 30


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(2, "eio"), errno.EIO),
        (Fault(2, "enospc", lasting=True), errno.ENOSPC),
        (Fault(2, "cut"), errno.EIO),
    ],
)
def test_the_nth_call_fails_and_those_after_it_only_where_it_lasts(
    disk: Disk, fault: Fault, error: int
) -> None:
    disk.arm(fault)
    with (disk.folder / "a").open("wb", buffering=0) as file:
        with pytest.raises(OSError) as raised:  # noqa: PT011
            file.write(b"1")
        assert raised.value.errno == error
        if fault.kind == "eio":
            file.write(b"2")
        else:
            with pytest.raises(OSError):  # noqa: PT011
                file.write(b"2")
    assert disk.calls()[:2] == ["create /a", "write a 1 at 0"]


# --- the parts ------------------------------------------------------------------------


def test_a_log_that_is_cut_or_flipped_leaves_what_was_committed_first() -> None:
    assert_held(damage.log(seed=1, count=6), 12)


def test_a_cut_or_flipped_file_is_refused_or_adds_up() -> None:
    assert_held(damage.files(seed=1, count=2), 12)


@pytest.mark.long
def test_odd_moments_and_edges_are_what_the_reference_says(dbt: None) -> None:
    tally = clocks.clocks(seed=1, count=400)
    assert_held(tally, 400)
    assert tally.refused


@pytest.mark.long
def test_a_spool_whose_calls_fail_loses_nothing_acknowledged() -> None:
    assert_held(spool_faults.calls(seed=1, count=2), 12)


@pytest.mark.long
def test_a_spool_whose_power_is_cut_loses_nothing_acknowledged() -> None:
    assert_held(spool_faults.power(seed=1, count=2), 4)


@pytest.mark.long
def test_a_command_whose_calls_fail_says_so_and_is_finished_by_the_next(
    dbt: None,
) -> None:
    tally = disk_faults.calls(1, 2, ("land", "publish"), kinds=("eio",))
    assert_held(tally, 4)
    assert tally.refused


@pytest.mark.long
def test_a_command_whose_power_is_cut_is_finished_by_the_next(dbt: None) -> None:
    assert_held(disk_faults.power(1, 2, ("land", "publish")), 4)


@pytest.mark.long
def test_a_history_of_everything_that_happens_is_what_the_reference_says(
    dbt: None,
) -> None:
    assert_held(histories.histories(1, 24, steps=12), 12)


@pytest.mark.long
def test_a_collector_under_load_loses_nothing_acknowledged() -> None:
    assert_held(load.load(seed=1, count=16), 1000)


@pytest.mark.long
def test_writers_at_once_lose_nothing_and_readers_see_no_part(dbt: None) -> None:
    assert_held(writers.writers(seed=1, count=1, at_most=2, dagster=False), 6)


@pytest.mark.long
def test_dagster_killed_at_work_ends_where_an_unbroken_run_does() -> None:
    assert_held(kills.dagster(seed=1, count=1), 1)
