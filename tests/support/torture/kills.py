"""The kills that the tests have, many of them: of each command, at random instants, and
several in a row."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from tests.support.torture.tally import Tally

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
