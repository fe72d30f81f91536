"""Two parts: the n-th call fails, and the power goes at the n-th call.

After a failed call the command says what is wrong in a line, or is done all the same;
readers have the snapshot from before or the new one. After a cut they have one of them,
too, and what was done before it is there. Then the same command ends where an unbroken
one ends.
"""

import contextlib
import functools
import shutil
from collections.abc import Sequence
from random import Random
from typing import get_args

import duckdb

from tests.support.disk import Fault, Kind
from tests.support.torture.commands import (
    COMMANDS,
    Command,
    Place,
    Run,
    State,
    difference,
    place,
    snapshot_of,
    snapshot_state,
    state,
)
from tests.support.torture.tally import Tally, chosen

# What makes a warehouse that was landed anew comparable: an earlier loader refused
# lines that this one lands, and a restore publishes.
_AFTERWARDS = (
    Command("retry", "", ("dead-letters", "retry", "--all")),
    Command("refresh", "", ("refresh",)),
)
KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != "cut")


class _Tortured:
    """One command on a disk; what it does, and comes to, when nothing fails."""

    def __init__(self, at: Place, command: Command) -> None:
        self._at = at
        self._command = command
        self._start = at.start(command.start)
        at.disk.load(self._start)
        before = state(at.disk.folder, command)
        at.disk.arm()
        run = at.run(command)
        assert run.code == 0, (command, run)
        self.calls = at.disk.calls()
        at.disk.arm()
        self.end = state(at.disk.folder, command)
        self._snapshots = [snapshot_of(each) for each in (before, self.end)]
        self.restored = 0

    def fails(self, fault: Fault, tally: Tally) -> None:
        run, what = self._run(fault)
        tally.tried += 1
        tally.refused += run.code != 0
        tally.check(run.is_clear, f"{what}: exit code {run.code}: {run.errors}")
        self._look(what, tally)
        if run.code == 0:
            self._compare(f"{what}, and it said that it was done", tally)
        self._again(what, tally)

    def is_cut(self, at: int, seed: int, tally: Tally) -> None:
        """With `at` behind the last call: the power goes when the command is done."""
        run, what = self._run(Fault(at, "cut"))
        what += f" (seed {seed})"
        tally.tried += 1
        left = self._at.folder_for("left")
        self._at.disk.survive(left, seed)
        self._at.disk.load(left)
        self._look(what, tally)
        if at > len(self.calls) and run.code == 0:
            self._compare(f"{what}, when it was done", tally)
        self._again(what, tally)

    def _run(self, fault: Fault) -> tuple[Run, str]:
        disk = self._at.disk
        disk.load(self._start)
        disk.arm(fault)
        run = self._at.run(self._command)
        calls = disk.calls()
        call = calls[fault.at - 1] if fault.at <= len(calls) else "the end"
        if fault.kind != "cut":
            disk.arm()
        lasting = " from there on" if fault.lasting else ""
        return run, (
            f"{self._command.name}: {fault.kind} at call {fault.at}{lasting} ({call})"
        )

    def _look(self, what: str, tally: Tally) -> None:
        try:
            found = snapshot_state(self._at.disk.folder)
        except duckdb.Error as error:
            tally.check(False, f"{what}: the snapshot cannot be read: {error}")
        else:
            tally.check(found in self._snapshots, f"{what}: the snapshot is another")

    def _compare(self, what: str, tally: Tally) -> None:
        try:
            found: State | None = state(self._at.disk.folder, self._command)
        except duckdb.Error as error:
            tally.check(False, f"{what}: cannot be read: {error}")
        else:
            differs = difference(found or {}, self.end)
            tally.check(differs is None, f"{what}: {differs}")

    def _again(self, what: str, tally: Tally) -> None:
        run = self._at.run(self._command)
        if run.says_damage:
            self.restored += 1
            self._restore(what, tally)
            return
        tally.check(run.code == 0, f"{what}: the next run: {run.code}: {run.errors}")
        self._compare(f"{what}, and run again", tally)

    def _restore(self, what: str, tally: Tally) -> None:
        """What the messages say: move it away, and what was published to a folder, and
        land again what was landed."""
        for name in ("warehouse.duckdb", "warehouse.duckdb.wal"):
            (self._at.disk.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._at.disk.folder / "outbox")
        restore = Command("restore", "", ("restore", "--from-landing"))
        for command in (restore, self._command, *_AFTERWARDS):
            run = self._at.run(command)
            tally.check(run.code == 0, f"{what}: damaged, and {command.name}: {run}")
        found = _facts(state(self._at.disk.folder, self._command))
        differs = difference(found, self._refreshed())
        tally.check(differs is None, f"{what}: restored, and {differs}")

    @functools.cache  # noqa: B019
    def _refreshed(self) -> State:
        """What is published in the end after an unbroken run."""
        self._at.disk.load(self._start)
        for command in (self._command, *_AFTERWARDS):
            run = self._at.run(command)
            assert run.code == 0, (command, run)
        return _facts(state(self._at.disk.folder, self._command))


def _facts(found: State) -> State:
    """What does not tell how often it was landed."""
    return {
        name: rows
        for name, rows in found.items()
        if name
        in ("published progress.v_user_progress", "published signals.lms_signal")
    }


def calls(
    seed: int,
    count: int,
    names: Sequence[str] = (),
    *,
    kinds: Sequence[Kind] = KINDS,
    in_each_way: bool = True,
) -> Tally:
    """For each command `count` of its calls fail, all if it has fewer: in each way, or
    in one drawn at random."""
    tally = Tally()
    random = Random(seed)
    with place() as at:
        for command in COMMANDS:
            if names and command.name not in names:
                continue
            tortured = _Tortured(at, command)
            total = len(tortured.calls)
            for number in chosen(total, count, random):
                for kind in kinds if in_each_way else (random.choice(kinds),):
                    fault = Fault(number, kind, lasting=kind == "enospc")
                    tortured.fails(fault, tally)
            tally.note(f"{command.name}: {min(count, total)} of {total} calls")
    return tally


def power(
    seed: int, count: int, names: Sequence[str] = (), *, strict: bool = False
) -> Tally:
    """Each command is cut `count` times: at random calls, every fourth time after the
    last one, and then what it did must be there."""
    tally = Tally()
    random = Random(seed)
    with place(strict=strict) as at:
        for command in COMMANDS:
            if names and command.name not in names:
                continue
            tortured = _Tortured(at, command)
            total = len(tortured.calls)
            for number in range(count):
                instant = total + 1 if number % 4 == 0 else random.randint(1, total)
                tortured.is_cut(instant, random.randrange(2**32), tally)
            tally.note(
                f"{command.name}: {count} cuts of {total} calls"
                + (f", {tortured.restored} restored" if tortured.restored else "")
            )
    return tally
