"""Random histories of everything that happens to a warehouse, against the reference.

Hypothesis draws what happens next: events land, late, repeated or in conflict; a
catalogue; a loader from before a contract, and the retry of what it refused; a process
is killed while it lands or derives; a replay; an erasure; a rule is edited, and the
edit taken back. After each refresh every table and view is what plain Python makes of
the same history. A history that fails is made shorter before it is shown.
"""

import os
import tempfile
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from unittest import mock

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ingest.landing import dead_letters, event_files
from orchestration.erasure.erase import Places, erase
from orchestration.shadow.replay import replay
from tests.support import oracle, reference
from tests.support.builders import (
    NOW,
    RECEIVED_AT,
    Json,
    Warehouse,
    as_line,
    write_lines,
)
from tests.support.earlier_loader import PING_V2, before
from tests.support.kills import Processes
from tests.support.logs import EFFECTIVE, USERS, a_snapshot, an_event
from tests.support.torture.commands import imported
from tests.support.torture.tally import Tally

# Of a few ids, so that events meet their repeats and conflicts.
IDS = 120
FIRST_EFFECTIVE = "2026-03-01T00:00:00Z"
seeds = st.integers(0, 2**32 - 1)


def land_file(file: Path, warehouse_path: Path) -> None:
    event_files.land([file], warehouse_path, received_at=RECEIVED_AT)


class History(RuleBasedStateMachine):
    """A warehouse, and beside it what the reference needs to know of its history."""

    # Set by `histories`: every warehouse stands in one folder, for dbt's sake.
    folder: ClassVar[Path]
    template: ClassVar[Warehouse]
    processes: ClassVar[Processes]
    tally: ClassVar[Tally]

    def __init__(self) -> None:
        super().__init__()
        self.warehouse = self.template.copied(self.folder)
        self.known: dict[str, reference.Accepted] = {}
        self.refused: list[bytes] = []
        self.files: set[tuple[bytes, ...]] = set()
        self.snapshots: list[tuple[str, list[Any]]] = []
        self.erased: set[str] = set()
        self.threshold = Decimal("0.9")
        self.steps = 0
        self.is_derived = False

    # --- what lands

    def _take(self, lines: Iterable[bytes]) -> None:
        """What the reference makes of lines, less those of erased learners.

        A conflict can be retried, as what an earlier loader refused: once the learner
        is erased whose event came first, it is new.
        """
        for line in lines:
            alone: dict[str, reference.Accepted] = {}
            reference.classify([line], RECEIVED_AT, alone)
            if any(one.event.user_id in self.erased for one in alone.values()):
                continue
            for outcome in reference.classify([line], RECEIVED_AT, self.known):
                if outcome.kind == "conflict":
                    self.refused.append(line)

    def _is_another_file(self, lines: list[bytes]) -> bool:
        """A file with the same content is not looked at again: what it had in conflict
        waits for a retry, also when the other event was erased since."""
        is_another = tuple(lines) not in self.files
        self.files.add(tuple(lines))
        return is_another

    def _events(self, seed: int, count: int) -> list[Json]:
        random = Random(seed)
        return [an_event(random, f"{random.randrange(IDS):03}") for _ in range(count)]

    def _next(self) -> None:
        self.steps += 1
        type(self).tally.tried += 1

    def _lands(self, lines: list[bytes]) -> None:
        self.warehouse.land(lines)
        if self._is_another_file(lines):
            self._take(lines)
        self.is_derived = False

    @rule(seed=seeds, count=st.integers(1, 30))
    def land(self, seed: int, count: int) -> None:
        self._next()
        self._lands([as_line(event) for event in self._events(seed, count)])

    @rule(seed=seeds)
    def land_again_what_is_known(self, seed: int) -> None:
        """Repeats, and conflicts: the same ids with other learners."""
        self._next()
        random = Random(seed)
        lines = []
        for accepted in random.sample(
            list(self.known.values()), min(5, len(self.known))
        ):
            event = accepted.event
            again: Json = {
                "event_id": event.event_id,
                "type": event.type,
                "schema_version": event.schema_version,
                "user_id": event.user_id,
                "class_id": event.class_id,
                "course_id": event.course_id,
                "occurred_at": accepted.occurred_at_text,
                "payload": event.payload,
            }
            if random.random() < 0.5:
                again["user_id"] = random.choice(USERS)
            lines.append(as_line(again))
        self._lands([*lines, b"{", b"", b"\xff"])

    @rule(seed=seeds, share=st.floats(0, 1))
    def land_killed_and_again(self, seed: int, share: float) -> None:
        self._next()
        lines = [as_line(event) for event in self._events(seed, 20)]
        file = write_lines(self.warehouse.folder / f"killed-{self.steps}.ndjson", lines)
        self.processes.killed(share * 0.1, land_file, file, self.warehouse.path)
        land_file(file, self.warehouse.path)
        if self._is_another_file(lines):
            self._take(lines)
        self.is_derived = False

    @rule(seed=seeds, effective=st.sampled_from(EFFECTIVE))
    def land_a_catalogue(self, seed: int, effective: str) -> None:
        self._next()
        if not self.snapshots:
            effective = FIRST_EFFECTIVE
        classes = a_snapshot(Random(seed))
        self.warehouse.land_catalogue(*classes, effective_from=effective)
        self.snapshots.append((effective, classes))
        self.is_derived = False

    # --- dead letters

    @rule(seed=seeds)
    def land_by_a_loader_from_before_a_contract(self, seed: int) -> None:
        self._next()
        lines = [as_line(event) for event in self._events(seed, 8)]
        with before(PING_V2):
            self.warehouse.land(lines)
        self.is_derived = False
        if not self._is_another_file(lines):
            return
        is_new = [b'"schema_version": 2' in line for line in lines]
        self._take(line for line, new in zip(lines, is_new, strict=True) if not new)
        self.refused += [line for line, new in zip(lines, is_new, strict=True) if new]

    @rule()
    def retry(self) -> None:
        self._next()
        dead_letters.retry(self.warehouse.path, now=RECEIVED_AT)
        refused, self.refused = self.refused, []
        self._take(refused)
        self.is_derived = False

    # --- learners and rules

    @precondition(lambda self: self.steps > 10 and len(self.erased) < 3)
    @rule(user=st.sampled_from(USERS))
    def erase(self, user: str) -> None:
        self._next()
        places = Places(outbox=self.warehouse.folder / "outbox")
        erase(self.warehouse.path, [user], places, reason="asked for")
        self.erased.add(user)
        self.known = {
            event_id: accepted
            for event_id, accepted in self.known.items()
            if accepted.event.user_id != user
        }
        self.is_derived = False

    @rule(threshold=st.sampled_from(["0.9", "0.95"]))
    def edit_a_rule_or_take_it_back(self, threshold: str) -> None:
        self._next()
        self.threshold = Decimal(threshold)
        self.is_derived = False

    # --- what is derived

    @property
    def _variables(self) -> dict[str, Any]:
        edited = {"completion_threshold": float(self.threshold)}
        return {} if self.threshold == Decimal("0.9") else edited

    def _compare(self) -> None:
        oracle.assert_equal(
            self.warehouse,
            [accepted.event for accepted in self.known.values()],
            oracle.catalogue_snapshots(self.snapshots),
            completion_threshold=self.threshold,
        )

    @precondition(lambda self: self.steps % 4 == 3)
    @rule(rebuild=st.sampled_from([False, False, False, True]))
    def refresh(self, rebuild: bool) -> None:
        self._next()
        if rebuild:
            self.warehouse.rebuild(**self._variables)
        else:
            self.warehouse.refresh(**self._variables)
        self._compare()
        self.is_derived = True
        type(self).tally.refused += 1  # counted as refreshes, see `histories`

    @precondition(lambda self: self.steps % 16 == 11)
    @rule(share=st.floats(0, 1))
    def refresh_killed(self, share: float) -> None:
        self._next()
        self.processes.killed(share * 1.5, self.warehouse.refresh)
        self.is_derived = False

    @precondition(lambda self: self.is_derived and self.steps % 3 == 0)
    @rule()
    def replay(self) -> None:
        """In a sound state it finds nothing to swap in."""
        self._next()
        found = replay(
            self.warehouse.path,
            apply=True,
            variables={"now": NOW, **self._variables},
        )
        assert found.is_same, found
        self._compare()

    def teardown(self) -> None:
        self.warehouse.refresh(**self._variables)
        self._compare()


def histories(seed: int, count: int, *, steps: int = 50) -> Tally:
    """Histories of so many steps each, `count` steps in all."""
    tally = Tally()
    with (
        tempfile.TemporaryDirectory(prefix="lms-torture-") as name,
        mock.patch.dict(os.environ, {"DBT_TARGET_PATH": f"{name}/dbt_target"}),
    ):
        folder = Path(name)
        (folder / "warehouse").mkdir()
        (folder / "template").mkdir()
        made = Warehouse(folder / "warehouse")
        made.refresh()
        # A copy of it is refreshed without its views being made again.
        History.template = made.copied(folder / "template")
        History.folder = folder / "warehouse"
        History.processes = Processes(imported())
        History.tally = tally
        test = hypothesis.seed(seed)(History)
        try:
            run_state_machine_as_test(
                test,
                settings=settings(
                    max_examples=max(1, count // steps),
                    stateful_step_count=steps,
                    derandomize=False,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except Exception as error:
            notes = "\n".join(getattr(error, "__notes__", ()))
            tally.check(False, f"{error}\n{notes}")
    tally.note(f"{tally.refused:,} refreshes compared, and one at each history's end")
    tally.refused = 0
    return tally
