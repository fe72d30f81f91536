"""The benchmark: each measure as a pair in one run, product against floor, alternated.

    python -m benchmarks.bench --sizes 1M,10M --repeat 3

The first of the sizes is landed at once into an empty warehouse. Each further one is a
history: it is landed and derived, and then so many new events arrive again and again.
Everything that is measured runs in a process of its own. All state is in a scratch
folder; the results are written after each measure, so that what breaks off leaves what
it has.
"""

import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks import measure, report
from benchmarks.measure import Sample

PROJECT = Path(__file__).parents[1]
DBT_PROJECT = PROJECT / "dbt_project"

# Larger histories are repeated less often, and landed slice by slice.
LARGE = 20_000_000

# The state of learning analytics, and what is made of it.
ANALYTICS = (
    *("prj_video_watch+", "prj_quiz_attempt+", "prj_active_day+"),
    *("prj_streak+", "prj_badge_award+", "path:models/analytics"),
)

GROUPS = ("land", "rebuild", "delta", "sql", "shell", "dagster")


@dataclass(frozen=True)
class Pair:
    product: Sample
    floor: Sample

    @property
    def cpu_ratio(self) -> float:
        return self.product.cpu / max(self.floor.cpu, 1e-9)

    @property
    def wall_ratio(self) -> float:
        return self.product.wall / max(self.floor.wall, 1e-9)


@dataclass(frozen=True)
class Measure:
    """What is compared with what, and which ratio of CPU seconds it must reach."""

    name: str
    product: str
    floor: str
    bar: float
    bar_large: float = 0.0
    # From how many events on `bar_large` holds.
    large: int = LARGE
    peak_mb: float = 0.0

    def bar_at(self, events: int) -> float:
        return self.bar_large if self.bar_large and events >= self.large else self.bar


MEASURES = (
    Measure(
        "land",
        "land a dirty file into an empty warehouse",
        "naive typed table of its clean lines",
        bar=2.3,
        peak_mb=1000,
    ),
    Measure(
        "land_memory",
        "peak memory of landing ten times as much",
        "peak memory of landing the first size",
        bar=1.1,
        peak_mb=1000,
    ),
    Measure(
        "land_gzip",
        "land the same file, gzip",
        "naive typed table of its clean lines, gzip",
        bar=2.5,
    ),
    Measure("land_known", "land a file that was landed before", "hash it", bar=1.5),
    Measure(
        "land_delta",
        "land the new events on the history",
        "land them on an empty warehouse",
        bar=2,
        bar_large=3,
        peak_mb=1200,
    ),
    Measure(
        "refresh_sql",
        "refresh, the SQL alone",
        "hand-written merge in one script, without learning analytics",
        bar=1.5,
    ),
    Measure(
        "analytics",
        "derive and test the new events",
        "the same without learning analytics",
        bar=1.5,
    ),
    Measure("refresh_shell", "`warehouse refresh`", "`dbt ls`", bar=1.5),
    Measure("refresh_job", "the job `refresh`", "`warehouse refresh`", bar=1.6),
    Measure(
        "refresh_nothing",
        "`warehouse refresh` with nothing new",
        "`warehouse refresh` of the new events",
        bar=0.7,
    ),
    Measure(
        "rebuild",
        "`warehouse rebuild`",
        "one script that computes its tables, without learning analytics",
        bar=1.5,
        peak_mb=4000,
    ),
    Measure(
        "growth_sql",
        "refresh on the largest history, the SQL alone",
        "the same on the history before it",
        bar=2.5,
        bar_large=1.5,
        large=100_000_000,
    ),
    Measure(
        "growth_shell",
        "`warehouse refresh` on the largest history",
        "the same on the history before it",
        bar=2.5,
        bar_large=1.5,
        large=100_000_000,
    ),
)
BY_NAME = {measure.name: measure for measure in MEASURES}


@dataclass(frozen=True)
class Result:
    """A measure on one history. `holds` says of conditions beside the ratio whether
    they are met; `profile` where the time goes, in seconds."""

    name: str
    events: int
    pairs: tuple[Pair, ...] = ()
    # For memory and growth: what is compared is no pair of runs.
    ratio_alone: float | None = None
    holds: dict[str, bool] = field(default_factory=dict)
    profile: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def measure(self) -> Measure:
        return BY_NAME[self.name]

    @property
    def ratio(self) -> float:
        if self.ratio_alone is not None:
            return self.ratio_alone
        return median(pair.cpu_ratio for pair in self.pairs)

    @property
    def wall_ratio(self) -> float | None:
        if not self.pairs:
            return None
        return median(pair.wall_ratio for pair in self.pairs)

    @property
    def peak_mb(self) -> float:
        return max((pair.product.peak_mb for pair in self.pairs), default=0.0)

    def conditions(self) -> dict[str, bool]:
        """Everything that must hold, by its name."""
        bar = self.measure.bar_at(self.events)
        memory = self.measure.peak_mb
        found = {f"at most {bar:g} x": self.ratio <= bar}
        if memory and self.pairs:
            found[f"under {memory:g} MB"] = self.peak_mb < memory
        return found | self.holds

    def as_json(self) -> dict[str, Any]:
        def middle(side: str) -> dict[str, float]:
            samples = [getattr(pair, side) for pair in self.pairs]
            return {
                name: median(getattr(sample, name) for sample in samples)
                for name in ("cpu", "wall", "peak_mb")
                if samples
            }

        return {
            "name": self.name,
            "events": self.events,
            "product": {"is": self.measure.product, **middle("product")},
            "floor": {"is": self.measure.floor, **middle("floor")},
            "ratio": self.ratio,
            "wall_ratio": self.wall_ratio,
            "bar": self.measure.bar_at(self.events),
            "met": all(self.conditions().values()),
            "conditions": self.conditions(),
            "notes": self.notes,
            "profile": self.profile,
            "pairs": [asdict(pair) for pair in self.pairs],
        }


class ChildFailed(Exception):
    """A measured process failed; the text has the end of what it printed."""


@dataclass(frozen=True)
class Options:
    sizes: tuple[int, ...]
    delta: int
    slice_events: int
    repeat: int
    repeat_large: int
    groups: tuple[str, ...]
    scratch: Path
    results: Path

    @property
    def histories(self) -> tuple[int, ...]:
        return self.sizes[1:] or self.sizes

    def repeats(self, events: int) -> int:
        return self.repeat_large if events >= LARGE else self.repeat


class Bench:
    """One run of the benchmark: its state, and what it has found so far."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.results: dict[tuple[str, int], Result] = {}
        self.errors: list[str] = []
        self.finished = False
        self._started = time.monotonic()
        self._step = 0

    def run(self) -> None:
        try:
            if "land" in self.options.groups:
                with self._part("land"):
                    self._measure_landing(self.options.sizes[0])
            for events in self.options.histories:
                if set(self.options.groups) - {"land"}:
                    with self._part(f"history of {events}"):
                        self._measure_history(events)
            self._measure_growth()
            self.finished = not self.errors
        finally:
            self._write()

    # What is measured

    def _measure_landing(self, events: int) -> None:
        folder = self._folder("landing")
        dirty, clean = folder / "dirty.ndjson", folder / "clean.ndjson"
        self.say(f"{events:,} events: writing the dirty and the clean file")
        self._generate(dirty, events, 1, 0)
        self._generate(clean, events, 1, 0, clean=True)
        warehouse, table = folder / "w" / "warehouse.duckdb", folder / "naive.duckdb"

        def land(file: Path, profiled: bool = False) -> dict[str, Any]:
            _remove(warehouse)
            return self._child(
                "land",
                files=[str(file)],
                warehouse=str(warehouse),
                profiled=profiled,
            )

        def naive(file: Path) -> dict[str, Any]:
            _remove(table)
            return self._child("naive", file=str(file), database=str(table))

        pairs = [
            Pair(_inside(land(dirty)), _inside(naive(clean)))
            for _ in self._repetitions("land", events)
        ]
        self._add(
            Result(
                "land",
                events,
                tuple(pairs),
                profile={
                    "landing, by line of code": land(dirty, profiled=True)["profile"]
                },
            )
        )
        known = [
            Pair(
                _inside(
                    self._child("land", files=[str(dirty)], warehouse=str(warehouse))
                ),
                _inside(self._child("hash_file", file=str(dirty))),
            )
            for _ in self._repetitions("land_known", events)
        ]
        self._add(Result("land_known", events, tuple(known)))
        clean_gzip = folder / "clean.ndjson.gz"
        dirty_gzip = folder / "dirty.ndjson.gz"
        for file, packed in ((clean, clean_gzip), (dirty, dirty_gzip)):
            self._command("gzip", ["gzip", "-6", "--keep", str(file)])
            assert packed.exists()
            file.unlink()
        gzip = [
            Pair(_inside(land(dirty_gzip)), _inside(naive(clean_gzip)))
            for _ in self._repetitions("land_gzip", events)
        ]
        self._add(
            Result(
                "land_gzip",
                events,
                tuple(gzip),
                profile={
                    "CPU seconds of reading it alone": {
                        f"{task}, thrown away": self._child(task, file=str(dirty_gzip))[
                            "cpu"
                        ]
                        for task in ("read_gzip", "read_gzip_in_python")
                    },
                    "landing, by line of code": land(dirty_gzip, profiled=True)[
                        "profile"
                    ],
                },
            )
        )
        shutil.rmtree(folder)

    def _measure_history(self, events: int) -> None:
        folder = self._folder(f"history-{events}")
        warehouse = folder / "data" / "warehouse.duckdb"
        slices = max(events // self.options.slice_events, 1)
        slice_events = events // slices
        self._land_history(folder, warehouse, events, slice_events, slices)
        self._measure_rebuild(folder, warehouse, events)
        repeats = self.options.repeats(events)
        deltas = self._split_deltas(folder, slice_events, slices, 2 * repeats + 1)
        if "dagster" in self.options.groups:
            self.say("the first run of the job: it fills the outbox")
            self._job(warehouse)
        landed: list[Pair] = []
        refreshed: list[Pair] = []
        nothing: list[Pair] = []
        job: list[Pair] = []
        rewritten: set[str] = set()
        try:
            for number in self._repetitions("new events", events):
                landed.append(self._land_delta(folder, warehouse, deltas[2 * number]))
                if number == 0 and "sql" in self.options.groups:
                    self._measure_sql(folder, warehouse, events)
                    self._measure_analytics(folder, warehouse, events)
                if not {"shell", "dagster"} & set(self.options.groups):
                    continue
                refresh = self._refresh(warehouse)
                if "shell" in self.options.groups:
                    refreshed.append(Pair(refresh, self._dbt_ls(warehouse)))
                    before = _state_of(warehouse.parent)
                    nothing.append(Pair(self._refresh(warehouse), refresh))
                    rewritten |= _changed(before, _state_of(warehouse.parent))
                if "dagster" in self.options.groups:
                    landed.append(
                        self._land_delta(folder, warehouse, deltas[2 * number + 1])
                    )
                    job.append(Pair(self._job(warehouse), refresh))
        finally:
            # Also of what breaks off here.
            found = [
                Result("refresh_shell", events, tuple(refreshed)),
                Result(
                    "refresh_nothing",
                    events,
                    tuple(nothing),
                    holds={"nothing is rewritten": not rewritten},
                    notes=tuple(f"changed: {name}" for name in sorted(rewritten)),
                ),
                Result("refresh_job", events, tuple(job)),
            ]
            if "delta" in self.options.groups:
                found.insert(0, Result("land_delta", events, tuple(landed)))
            for result in found:
                if result.pairs:
                    self._add(result)
        self._add_profiles(warehouse, events, deltas[-1])
        shutil.rmtree(folder)

    def _add_profiles(self, warehouse: Path, events: int, delta: Path) -> None:
        """Where the time goes, with new events that nothing was measured with."""
        landing = self._child(
            "land", files=[str(delta)], warehouse=str(warehouse), profiled=True
        )["profile"]
        for name in ("land_delta", "refresh_shell", "refresh_nothing"):
            if result := self.results.get((name, events)):
                profile = (
                    {"landing, by line of code": landing}
                    if name == "land_delta"
                    else self._profile_refresh(warehouse)
                )
                self.results[name, events] = replace(result, profile=profile)
        self._write()

    def _land_history(
        self,
        folder: Path,
        warehouse: Path,
        events: int,
        slice_events: int,
        slices: int,
    ) -> None:
        """Lands all slices but one; up to ten million events as one file."""
        in_one_file = events < LARGE
        whole = folder / "history.ndjson"
        catalogue = folder / "catalogue.csv"
        seconds = peak = 0.0
        for number in range(slices):
            self.say(f"{events:,} events: slice {number + 1} of {slices}")
            file = folder / f"slice-{number}.ndjson"
            self._generate(
                file,
                slice_events,
                slices + 1,
                number,
                append_to=str(whole) if in_one_file else "",
                catalogue=str(catalogue) if number == 0 else "",
            )
            if number == 0:
                self._warehouse(warehouse, "catalogue", str(catalogue))
            if in_one_file:
                if number < slices - 1:
                    continue
                file = whole
                self.say(f"{events:,} events: landing them as one file")
            answer = self._child("land", files=[str(file)], warehouse=str(warehouse))
            seconds += answer["cpu"]
            peak = max(peak, answer["peak_mb"])
            file.unlink()
        self.say(f"landed with {seconds:.1f} CPU seconds and {peak:,.0f} MB at most")
        first = self.results.get(("land", self.options.sizes[0]))
        if in_one_file and first is not None:
            at_first = median(pair.product.peak_mb for pair in first.pairs)
            self._add(
                Result(
                    "land_memory",
                    events,
                    ratio_alone=peak / at_first,
                    holds={"under 1000 MB": peak < 1000},
                    notes=(f"{peak:,.0f} MB against {at_first:,.0f} MB",),
                )
            )

    def _measure_rebuild(self, folder: Path, warehouse: Path, events: int) -> None:
        """Derives and publishes the history; then measures that it is derived again.

        All events are published as Parquet once, by the first of them: it is noted.
        """
        fresh = folder / "floor.duckdb"
        first, _ = self._warehouse(warehouse, "rebuild")
        if "rebuild" not in self.options.groups:
            return
        pairs = []
        profile: dict[str, float] = {}
        tables: dict[str, dict[str, int]] = {}
        for _ in self._repetitions("rebuild", events, at_most=2):
            product, printed = self._warehouse(warehouse, "rebuild", "--json")
            summary = json.loads(printed)
            profile["inside dbt, wall"] = summary["seconds"]
            _remove(fresh)
            floor = self._child("rebuild", warehouse=str(warehouse), fresh=str(fresh))
            pairs.append(Pair(product, floor["whole"]))
        tables = self._child("compare", derived=str(warehouse), floor=str(fresh))[
            "tables"
        ]
        _remove(fresh)
        self._add(
            Result(
                "rebuild",
                events,
                tuple(pairs),
                holds={
                    "equal row for row": _are_equal(tables),
                    "the first under 4000 MB": first.peak_mb < 4000,
                },
                profile={"of the command": profile},
                notes=(
                    "the first, which also publishes all events as Parquet: "
                    f"{first.cpu:.1f} CPU s, {first.wall:.1f} s, "
                    f"{first.peak_mb:,.0f} MB",
                    *_rows(tables),
                ),
            )
        )

    def _measure_sql(self, folder: Path, warehouse: Path, events: int) -> None:
        """On copies of the warehouse, with the new events landed and not derived."""
        copy = folder / "copy" / "warehouse.duckdb"
        statements = folder / "statements.json"
        kept = folder / "kept.duckdb"
        place = self._child("place", warehouse=str(warehouse))["place"]
        self.say("writing down the SQL of a refresh")
        self._copy(warehouse, copy)
        self._child("capture", warehouse=str(copy), statements=str(statements))
        self._child("keep_tables", warehouse=str(copy), fresh=str(kept))
        pairs = []
        tables: dict[str, dict[str, int]] = {}
        profile: dict[str, float] = {}
        for _ in self._repetitions("refresh_sql", events):
            self._copy(warehouse, copy)
            product = self._child(
                "replay", warehouse=str(copy), statements=str(statements)
            )
            profile = product["seconds_by_node"]
            self._copy(warehouse, copy)
            floor = self._child("merge_delta", warehouse=str(copy), place=place)
            pairs.append(Pair(_inside(product), _inside(floor)))
            if not tables:
                tables = self._child("compare", derived=str(kept), floor=str(copy))[
                    "tables"
                ]
        shutil.rmtree(copy.parent)
        _remove(kept)
        self._add(
            Result(
                "refresh_sql",
                events,
                tuple(pairs),
                holds={"equal row for row": _are_equal(tables)},
                profile={"SQL, by model": _largest(profile)},
                notes=_rows(tables),
            )
        )

    def _measure_analytics(self, folder: Path, warehouse: Path, events: int) -> None:
        """On copies, too: with the state and the tests of learning analytics, and
        without them."""
        copy = folder / "copy" / "warehouse.duckdb"
        pairs = []
        for _ in self._repetitions("analytics", events):
            self._copy(warehouse, copy)
            whole = self._child("derive", warehouse=str(copy))
            self._copy(warehouse, copy)
            without = self._child("derive", warehouse=str(copy), without=ANALYTICS)
            pairs.append(Pair(_inside(whole), _inside(without)))
        shutil.rmtree(copy.parent)
        self._add(Result("analytics", events, tuple(pairs)))

    def _measure_growth(self) -> None:
        for smaller, larger in pairwise(self.options.histories):
            for name, of in (
                ("growth_sql", "refresh_sql"),
                ("growth_shell", "refresh_shell"),
            ):
                found = [self.results.get((of, events)) for events in (larger, smaller)]
                if found[0] is None or found[1] is None:
                    continue
                of_larger, of_smaller = (
                    median(pair.product.cpu for pair in result.pairs)
                    for result in found
                    if result is not None
                )
                self._add(
                    Result(
                        name,
                        larger,
                        ratio_alone=of_larger / of_smaller,
                        notes=(
                            f"{of_larger:.2f} CPU seconds against {of_smaller:.2f} on "
                            f"{smaller:,} events",
                        ),
                    )
                )

    # The steps of it

    def _split_deltas(
        self, folder: Path, slice_events: int, slices: int, count: int
    ) -> list[Path]:
        """Files of new events: parts of the slice after the history."""
        following = folder / "following.ndjson"
        self._generate(following, slice_events, slices + 1, slices)
        deltas = [folder / f"new-{number}.ndjson" for number in range(count)]
        self._child(
            "split",
            file=str(following),
            lines=min(self.options.delta, slice_events // count),
            parts=[str(delta) for delta in deltas],
        )
        following.unlink()
        return deltas

    def _land_delta(self, folder: Path, warehouse: Path, delta: Path) -> Pair:
        empty = folder / "empty" / "warehouse.duckdb"
        _remove(empty)
        pair = Pair(
            *(
                _inside(self._child("land", files=[str(delta)], warehouse=str(path)))
                for path in (warehouse, empty)
            )
        )
        shutil.rmtree(empty.parent)
        return pair

    def _refresh(self, warehouse: Path) -> Sample:
        return self._warehouse(warehouse, "refresh")[0]

    def _profile_refresh(self, warehouse: Path) -> dict[str, dict[str, float]]:
        """Of the refresh of what is landed; the next one has nothing new."""
        answer = self._child(
            "profile_command", warehouse=warehouse, arguments=["refresh"]
        )
        return {
            "wall, by line of code": answer["profile"],
            "wall, in dbt's SQL": answer["sql_seconds"],
        }

    def _dbt_ls(self, warehouse: Path) -> Sample:
        target = self._dbt_target(warehouse.parent, "dbt_ls")
        command = [
            *(_bin("dbt"), "--quiet", "--log-level-file", "none"),
            *("--no-send-anonymous-usage-stats", "--no-version-check", "ls"),
            *("--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)),
            *("--target-path", str(target)),
        ]
        if not target.exists():
            # What dbt parses is kept: the first time is not what is measured.
            self._command("dbt ls", command, warehouse)
        return self._command("dbt ls", command, warehouse)[0]

    def _dbt_target(self, folder: Path, kind: str) -> Path:
        """One for each warehouse: dbt parses all again when its path is another."""
        scratch = self.options.scratch
        return scratch / kind / folder.relative_to(scratch)

    def _job(self, warehouse: Path) -> Sample:
        answer = self._child("dagster_job", warehouse=warehouse, job="refresh")
        return Sample(answer["cpu"], answer["wall"], answer["run_peak_mb"])

    def _warehouse(self, warehouse: Path, *arguments: str) -> tuple[Sample, str]:
        return self._command(
            f"warehouse {arguments[0]}", [_bin("warehouse"), *arguments], warehouse
        )

    def _generate(
        self, file: Path, events: int, slices: int, number: int, **more: Any
    ) -> None:
        self._child(
            "generate",
            file=str(file),
            events=events,
            slices=slices,
            number=number,
            **more,
        )

    def _copy(self, warehouse: Path, copy: Path) -> None:
        copy.parent.mkdir(exist_ok=True)
        _remove(copy)
        command = ["cp", "--reflink=auto", str(warehouse), str(copy)]
        self._command("copy", command)

    def _child(
        self, task: str, *, warehouse: Path | str | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Runs a task of benchmarks/children.py.

        A `warehouse` given as text is an argument of the task, else only its place.
        The answer has a `Sample` of the whole process, too, as `whole`.
        """
        if isinstance(warehouse, str):
            arguments["warehouse"] = warehouse
        result = self.options.scratch / "answer.json"
        result.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.children", task]
        sample, _ = self._command(
            task,
            [*command, json.dumps(arguments), str(result)],
            Path(warehouse) if warehouse else None,
        )
        answer: dict[str, Any] = json.loads(result.read_text())
        return {**answer, "whole": Sample(sample.cpu, sample.wall, answer["peak_mb"])}

    def _command(
        self, name: str, command: Sequence[str], warehouse: Path | None = None
    ) -> tuple[Sample, str]:
        """Runs a command to its end, with its children; gives what it printed, too."""
        scratch = self.options.scratch
        place = warehouse.parent if warehouse else scratch
        place.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "LMS_WAREHOUSE": str(warehouse or scratch / "none.duckdb"),
            "LMS_LANDING": str(place / "landing"),
            "DAGSTER_HOME": str(self._dagster_home()),
            "DBT_TARGET_PATH": str(self._dbt_target(place, "dbt")),
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(PROJECT),
        }
        self._step += 1
        log = scratch / "log.txt"
        ended = measure.run(command, place, environment, log)
        if ended.exit_code:
            end = (ended.printed + log.read_text(errors="replace"))[-2000:]
            raise ChildFailed(f"{name}: exit code {ended.exit_code}\n{end}")
        sample = ended.sample
        if sample.wall > 0.5:
            self.say(f"  {name}: {sample.cpu:.1f} CPU s, {sample.wall:.1f} s")
        return sample, ended.printed

    def _dagster_home(self) -> Path:
        home = self.options.scratch / "dagster"
        if not home.exists():
            home.mkdir(parents=True)
            shutil.copy2(PROJECT / "orchestration" / "dagster.yaml", home)
        return home

    def _folder(self, name: str) -> Path:
        folder = self.options.scratch / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    # What is said and written

    def say(self, text: str) -> None:
        elapsed = int(time.monotonic() - self._started)
        print(f"[{elapsed // 60:3d}:{elapsed % 60:02d}] {text}", flush=True)

    def _repetitions(self, what: str, events: int, at_most: int = 99) -> Iterator[int]:
        repeats = min(self.options.repeats(events), at_most)
        for number in range(repeats):
            self.say(f"{events:,} events: {what}, {number + 1} of {repeats}")
            yield number

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        try:
            yield
        except ChildFailed as error:
            # The other parts say what they have to say all the same.
            self.errors.append(f"{name}: {error}")
            self.say(f"FAILED {name}: {error}")

    def _add(self, result: Result) -> None:
        self.results[result.name, result.events] = result
        failed = [name for name, met in result.conditions().items() if not met]
        self.say(
            f"=> {result.name} on {result.events:,}: {result.ratio:.2f} x "
            + (f"MISSED: {', '.join(failed)}" if failed else "met")
        )
        self._write()

    def _write(self) -> None:
        self.options.results.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "finished": self.finished,
            "errors": self.errors,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._started, 1),
            "sizes": self.options.sizes,
            "new_events": self.options.delta,
            "machine": machine(),
            "results": [result.as_json() for result in self.results.values()],
        }
        new = self.options.results.with_suffix(".new")
        new.write_text(json.dumps(content, indent=2) + "\n")
        new.replace(self.options.results)


def machine() -> dict[str, str]:
    """What the numbers were taken on."""

    def first(path: str, name: str) -> str:
        with open(path) as file:
            for line in file:
                if line.startswith(name):
                    return line.split(":" if ":" in line else "=", 1)[1].strip(' "\n')
        return "unknown"

    memory_kb = int(first("/proc/meminfo", "MemTotal").split()[0])
    return {
        "cores": str(os.cpu_count()),
        "CPU": first("/proc/cpuinfo", "model name"),
        "memory": f"{memory_kb / 1024**2:.0f} GiB",
        "system": first("/etc/os-release", "PRETTY_NAME"),
        "Python": platform.python_version(),
        **{name: version(name) for name in ("duckdb", "dbt-core", "dagster")},
    }


def _inside(answer: dict[str, Any]) -> Sample:
    """The call alone, without the start of its process."""
    return Sample(answer["cpu"], answer["wall"], answer["peak_mb"])


def _remove(database: Path) -> None:
    for path in (database, database.with_name(f"{database.name}.wal")):
        path.unlink(missing_ok=True)


def _state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Each file below, but the note of when a run ended: its inode, size and time of
    change."""
    return {
        str(file.relative_to(folder)): (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        for file in folder.rglob("*")
        if ".last-runs" not in file.suffixes
        and file.is_file()
        and (stat := file.stat())
    }


def _changed(
    before: dict[str, tuple[int, int, int]], after: dict[str, tuple[int, int, int]]
) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def _are_equal(tables: dict[str, dict[str, int]]) -> bool:
    return bool(tables) and all(
        table["missing"] == table["surplus"] == 0 for table in tables.values()
    )


def _rows(tables: dict[str, dict[str, int]]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {table['rows']:,} rows"
        + (
            f", {table['missing']:,} missing and {table['surplus']:,} surplus in the "
            "floor"
            if table["missing"] or table["surplus"]
            else ""
        )
        for name, table in tables.items()
    )


def _largest(seconds: dict[str, float], count: int = 12) -> dict[str, float]:
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    rest = sum(value for _, value in ordered[count:])
    return dict(ordered[:count]) | ({"all others": rest} if rest else {})


def _bin(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def number_of(text: str) -> int:
    """`20000`, `100k`, `10M`."""
    factor = {"k": 1000, "M": 1_000_000}.get(text[-1:], 1)
    return int(text.rstrip("kM").replace("_", "")) * factor


def main(
    sizes: Annotated[
        str, typer.Option(help="Landed at once, then histories: 1M,10M,50M.")
    ] = "1M,10M",
    delta: Annotated[str, typer.Option(help="How many new events arrive.")] = "100k",
    slice_events: Annotated[
        str, typer.Option("--slice", help="How many events of a history are a file.")
    ] = "1M",
    repeat: int = 3,
    repeat_large: Annotated[
        int, typer.Option(help="The same, from 20 million events on.")
    ] = 3,
    only: Annotated[
        str, typer.Option(help=f"Only some of {', '.join(GROUPS)}.")
    ] = ",".join(GROUPS),
    scratch: Annotated[
        Path | None, typer.Option(help="Where the files go; else a temporary folder.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep the scratch folder.")] = False,
    results: Path = PROJECT / "data" / "bench" / "results.json",
    docs: Annotated[
        Path | None,
        typer.Option(help="Write performance.md and its plots into this folder."),
    ] = None,
    page: Annotated[report.Page, typer.Option(help="Which part of the page.")] = (
        report.Page.RESULTS
    ),
) -> None:
    """Measures everything, and writes results as JSON."""
    groups = tuple(only.split(","))
    if unknown := set(groups) - set(GROUPS):
        raise typer.BadParameter(f"--only: no {', '.join(sorted(unknown))}")
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=scratch)).resolve()
    bench = Bench(
        Options(
            sizes=tuple(number_of(size) for size in sizes.split(",")),
            delta=number_of(delta),
            slice_events=number_of(slice_events),
            repeat=repeat,
            repeat_large=repeat_large,
            groups=groups,
            scratch=folder,
            results=results.resolve(),
        )
    )
    # Told to end, it ends what it has started, and cleans up.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        bench.run()
    finally:
        if keep:
            bench.say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    bench.say(f"results: {results}")
    if docs is not None:
        report.write(results, docs, page)
    if bench.errors:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
