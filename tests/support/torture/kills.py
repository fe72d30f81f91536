"""The kills that the tests have, many of them: of each command, at random instants, and
several in a row. And kills of Dagster's daemon, of a run, and of both."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from unittest import mock
from xml.etree import ElementTree

import dagster as dg

from tests.support import oracle
from tests.support.builders import Json, Warehouse, write_lines
from tests.support.dagster_runs import (
    PROJECT,
    launch,
    make_home,
    run_process,
    wait_for,
)
from tests.support.logs import a_snapshot, an_event
from tests.support.torture.commands import environment
from tests.support.torture.tally import Tally, rounds

TESTS = Path(__file__).parents[2]


def kills(seed: int, count: int) -> Tally:
    """At each place `count` processes are killed at work."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="lms-torture-") as folder:
        report = Path(folder) / "report.xml"
        run = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-m", "slow", "-k", "many"),
                *("--timeout", "0", f"--junitxml={report}", str(TESTS)),
            ],
            env={**os.environ, "KILLS": str(count), "KILLS_SEED": str(seed)},
            stdout=sys.stderr,
            check=False,
        )
        cases = [*ElementTree.parse(report).iter("testcase")]
    for case in cases:
        failed = case.find("failure") is not None or case.find("error") is not None
        tally.tried += count
        tally.check(not failed, f"{case.get('name')}, see above")
    tally.check(run.returncode == 0, f"pytest ended with {run.returncode}")
    tally.note(f"{len(cases)} places")
    return tally


# --- Dagster --------------------------------------------------------------------------

EFFECTIVE = "2026-03-01T00:00:00Z"
WAIT_SEC = 180


def dagster(seed: int, count: int) -> Tally:
    """So many times new events come, the daemon's sensor starts a run, and within some
    seconds the daemon, the run or both are killed. Then one run without a daemon ends
    where an unbroken one would."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="lms-torture-") as name:
        folder, plain = Path(name) / "warehouse", Path(name) / "plain"
        (folder / "landing" / "events").mkdir(parents=True)
        plain.mkdir()
        home = make_home(plain / "dagster")
        given = {**environment(folder, plain), "LMS_REFRESH_CRON": "0 0 1 1 *"}
        with (
            mock.patch.dict(os.environ, given),
            dg.DagsterInstance.from_config(str(home)) as instance,
        ):
            warehouse = Warehouse(folder)
            classes = a_snapshot(Random(seed))
            warehouse.land_catalogue(*classes, effective_from=EFFECTIVE)
            events: list[Json] = []
            for number, random in rounds(count, seed):
                new = [an_event(random, f"{number}-{n:02}") for n in range(20)]
                write_lines(folder / "landing" / "events" / f"{number}.ndjson", new)
                events += new
                whom = _kill_at_work(instance, plain / "daemon.log", random)
                tally.tried += 1
                print(f"  round {number}: {whom} killed", file=sys.stderr, flush=True)
            last = launch("refresh", given)
            try:
                said, _ = last.communicate(timeout=WAIT_SEC)
            except subprocess.TimeoutExpired:
                last.kill()
                said, _ = last.communicate()
            tally.check(last.returncode == 0, f"the last run: {said[-2000:]}")
            left = [path.name for path in (home / "running").iterdir()]
            tally.check(left == [], f"taken for running in the end: {left}")
            try:
                oracle.assert_equal(
                    warehouse,
                    oracle.accepted_events(events),
                    oracle.catalogue_snapshots([(EFFECTIVE, classes)]),
                    only=("lms_signal", "v_user_progress", "v_event_daily_stats"),
                )
            except AssertionError as error:
                tally.check(False, f"in the end: {error}")
    return tally


def _kill_at_work(instance: dg.DagsterInstance, log: Path, random: Random) -> str:
    """Who was killed."""
    before = {run.run_id for run in instance.get_runs() if run.is_finished}
    with log.open("a") as output:
        daemon = subprocess.Popen(
            [str(Path(sys.executable).with_name("dagster-daemon")), "run"],
            cwd=PROJECT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        run = wait_for(lambda: _run_at_work(instance, before), WAIT_SEC)
        time.sleep(random.uniform(0, 20))
        process = run_process(instance, run.run_id)
        whom = random.choice(["the daemon", "the run", "both"])
        if whom != "the daemon" and process:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(process, signal.SIGKILL)
        if whom != "the run":
            daemon.kill()
        time.sleep(random.uniform(0, 5))
    finally:
        # A run that lives on without its daemon is killed as well, a little later.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
    return whom


def _run_at_work(
    instance: dg.DagsterInstance, before: set[str]
) -> dg.DagsterRun | None:
    """A new one, or one that was queued when its daemon was killed."""
    runs = [run for run in instance.get_runs() if run.run_id not in before]
    return runs[0] if runs else None
