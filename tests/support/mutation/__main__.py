"""Changes one rule at a time and sees whether a test fails: `make mutation`, or

    python -m tests.support.mutation [python | sql] [--count N] [--seed N]

A mutant is one changed place; it is killed when a test of its module fails, or takes
far too long. `--count` is how many of each half are tried, chosen at random by the
seed; 0 tries them all, which takes a night. Exit code 1 when less than 85 % of a half
are killed. docs/mutation.md says what is mutated, and which survivors are known.
"""

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

from tests.support.mutation import sql_rules
from tests.support.mutation.workshop import Mutant, Step, Workshop

PROJECT = Path(__file__).parents[3]
AT_LEAST_PERCENT = 85
SECONDS = 900.0  # for the tests of one module, unless they were timed

CONTRACTS = ("tests/ingest/contracts", "tests/ingest/landing/test_outcomes.py")
LANDING = (
    "tests/ingest/landing/test_event_files.py",
    "tests/ingest/landing/test_outcomes.py",
    "tests/ingest/landing/test_json.py",
    "tests/ingest/landing/test_dead_letters.py",
    "tests/ingest/store/test_journal.py",
)
ERASURE = ("tests/orchestration/erasure",)
# Of the laws those that compare what is derived with the reference, or with itself.
DERIVED = (
    "tests/orchestration/test_planted_learners.py",
    "tests/laws/test_laws.py::test_completion_is_judged_before_any_rounding",
    "tests/laws/test_laws.py::test_of_snapshots_with_one_effective_time_the_later_landed_holds",
    "tests/laws/test_laws.py::test_all_data_tests_hold_whatever_is_landed",
    "tests/laws/test_laws.py::test_order_batches_repetition_and_lateness_do_not_change_a_row",
)
# The code that is mutated, and the tests that are about it, the quickest first.
PYTHON = {
    "ingest/contracts/validation.py": CONTRACTS,
    "ingest/contracts/events.py": CONTRACTS,
    "ingest/landing/lines.py": LANDING,
    "ingest/landing/outcomes.py": LANDING,
    "ingest/landing/event_files.py": LANDING,
    "ingest/landing/loads.py": LANDING,
    "ingest/landing/dead_letters.py": ("tests/ingest/landing/test_dead_letters.py",),
    "ingest/store/tombstones.py": ERASURE,
    "ingest/store/erasure.py": ERASURE,
    "orchestration/erasure/erase.py": ERASURE,
    "orchestration/erasure/logs.py": ERASURE,
}
SQL_IN_PYTHON = ("ingest/contracts/validation.py", "ingest/landing/outcomes.py")
# What the macros do for dbt's sake is no rule of the domain.
MACROS = ("analytics", "contracts", "engine", "time", "upcast")


def pytest_step(tests: Sequence[str], marks: str) -> int:
    import pytest

    arguments = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = int(pytest.main([*arguments, "-m", f"{marks} and not long and not slow"]))
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code


def unit_test_step(warehouse: Path, model: str | None) -> int:
    """dbt's unit tests of the model, or all of them."""
    from orchestration.derive import dbt_runner

    tests = f"{model},test_type:unit" if model else "test_type:unit"
    arguments = ["test", "--no-write-json", "--select", tests]
    result = dbt_runner.invoke(arguments, warehouse).result
    return int(any(each.status not in ("pass", "success") for each in result))


def derive_step(warehouse: Path) -> int:
    """What the unit tests of incremental models need."""
    from ingest.store.database import open_for_writing
    from orchestration.derive.dbt_runner import derive

    with open_for_writing(warehouse, make=True):
        pass
    return 0 if derive(warehouse).succeeded else 1


def pytest_steps(tests: Sequence[str]) -> list[Step]:
    """Random ones last; where all is landing, none that derives."""
    derives = any(not each.startswith("tests/ingest") for each in tests)
    marks = ("not hypothesis", "hypothesis")
    if not derives:
        marks = ("not hypothesis and not dbt", "hypothesis and not dbt")
    return [functools.partial(pytest_step, tests, each) for each in marks]


def steps(file: str, warehouse: Path) -> list[Step]:
    """The tests that concern a file."""
    first: list[Step] = []
    if file.startswith("dbt_project"):
        model = Path(file).stem if "/models/" in file else None
        first = [functools.partial(unit_test_step, warehouse, model)]
    return [*first, *pytest_steps(PYTHON.get(file, DERIVED))]


def python_mutants(cosmic_ray: str, seed: int, count: int) -> list[Mutant]:
    rules = Path(__file__).with_name("python_rules.py")
    script = [cosmic_ray, str(rules), str(seed), str(count), *PYTHON]
    told = subprocess.run(script, cwd=PROJECT, check=True, stdout=subprocess.PIPE)
    return [Mutant(**each) for each in json.loads(told.stdout)]


def sql_mutants(seed: int, count: int) -> list[Mutant]:
    models = [*(PROJECT / "dbt_project/models").rglob("*.sql")]
    models += [PROJECT / f"dbt_project/macros/{name}.sql" for name in MACROS]
    files = sorted(str(each.relative_to(PROJECT)) for each in models)
    return sql_rules.sample(PROJECT, [*files, *SQL_IN_PYTHON], seed, count)


def prepared(folder: Path) -> tuple[Workshop, Path]:
    """A workshop, with what all its processes share, and an empty warehouse."""
    import dbt.adapters.duckdb
    import dbt.cli.main
    import duckdb
    import hypothesis
    import pandas
    import pytest

    del dbt, duckdb, hypothesis, pandas, pytest
    workshop, warehouse = Workshop(PROJECT, folder / "copy"), folder / "w" / "w.duckdb"
    warehouse.parent.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.environ["DBT_TARGET_PATH"] = str(folder / "target")
    if workshop.run([functools.partial(derive_step, warehouse)], SECONDS) != 0:
        raise SystemExit((workshop.folder / "log").read_text())
    return workshop, warehouse


def killed_of(mutants: Sequence[Mutant], workshop: Workshop, warehouse: Path) -> int:
    """Tries each; tells the survivors. The tests must pass without a mutant, too."""
    limits = {}
    for tests in sorted({PYTHON.get(mutant.file, DERIVED) for mutant in mutants}):
        started = time.monotonic()
        if workshop.run(pytest_steps(tests), SECONDS) != 0:
            told = (workshop.folder / "log").read_text()
            raise SystemExit(f"error: without a mutant there is a failure:\n{told}")
        limits[tests] = 2 * (time.monotonic() - started) + 20
        print(f"{limits[tests] / 2 - 10:.0f} s  {' '.join(tests)}", flush=True)
    killed = 0
    for number, mutant in enumerate(mutants, 1):
        shown = mutant.shown((workshop.folder / mutant.file).read_text())
        started = time.monotonic()
        limit = limits[PYTHON.get(mutant.file, DERIVED)]
        is_killed = workshop.is_killed(mutant, steps(mutant.file, warehouse), limit)
        killed += is_killed
        word = "killed  " if is_killed else "SURVIVED"
        seconds = time.monotonic() - started
        print(f"{number:4} {word} {seconds:4.0f} s  {shown}", flush=True)
    return killed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("halves", nargs="*", metavar="half", help="python, sql")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    parser.add_argument("--cosmic-ray", default=".venv-mutation/bin/python")
    given = parser.parse_args()
    # Ended from outside, it still ends what it started, and removes its copy.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = 0
    for half in given.halves or ["python", "sql"]:
        print(f"{half}: --seed {given.seed} --count {given.count}", flush=True)
        if half == "python":
            mutants = python_mutants(given.cosmic_ray, given.seed, given.count)
        else:
            mutants = sql_mutants(given.seed, given.count)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            killed = killed_of(mutants, *prepared(Path(folder)))
        percent, minutes = (
            100 * killed / len(mutants),
            (time.monotonic() - started) / 60,
        )
        print(f"{half}: {killed} of {len(mutants)} killed, {percent:.0f} %", end=", ")
        print(f"in {minutes:.0f} minutes")
        code |= percent < AT_LEAST_PERCENT
    return code


if __name__ == "__main__":
    sys.exit(main())
