"""A large history, landed, derived and published once, and kept for later runs.

    python -m benchmarks.kept_history --events 50M

makes it in data/bench/50M, which takes long; what is there is taken as it is, and one
that was broken off goes on with the next slice. Delete the folder to make it anew.
"""

import argparse
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from benchmarks.histories import DAYS, FIRST_DAY, History
from benchmarks.service import WAREHOUSE

PROJECT = Path(__file__).parents[1]
KEPT = PROJECT / "data" / "bench"

_SLICE = 1_000_000
_NEW = 100_000


@dataclass(frozen=True)
class KeptHistory:
    """`events` in slices of a million each, as benchmarks/bench.py lands them."""

    folder: Path
    events: int

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse.duckdb"

    @property
    def now(self) -> str:
        """Its end, in UTC: of all slices the last is what comes after it."""
        days = timedelta(DAYS * self._slices / (self._slices + 1))
        return f"{datetime.fromisoformat(FIRST_DAY) + days:%Y-%m-%d %H:%M:%S}"

    @property
    def environment(self) -> Mapping[str, str]:
        """For a process that works on it; it is now the end of the history."""
        return {
            **os.environ,
            "LMS_WAREHOUSE": str(self.warehouse),
            "LMS_LANDING": str(self.folder / "landing"),
            "DAGSTER_HOME": str(self.folder / "dagster"),
            "DBT_TARGET_PATH": str(self.folder / "target"),
            "LMS_NOW": self.now,
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(PROJECT),
        }

    def command(self, *arguments: str) -> str:
        """Runs the warehouse's command on it; what it prints."""
        done = subprocess.run(
            [WAREHOUSE, *arguments],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    def make(self) -> None:
        """Lands, derives and publishes what is not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._note("made").exists():
            return
        for number in range(self._slices):
            landed = self._note(f"slice-{number}.landed")
            if landed.exists():
                continue
            print(f"slice {number + 1} of {self._slices}", flush=True)
            file = self.folder / f"slice-{number}.ndjson"
            self._history.write_events(file, number)
            if number == 0:
                catalogue = self.folder / "catalogue.csv"
                self._history.write_catalogue(catalogue)
                self.command("catalogue", str(catalogue))
            self.command("land", str(file))
            landed.touch()
            file.unlink()
        print("deriving and publishing", flush=True)
        self.command("refresh")
        self._note("made").touch()

    def land_new_events(self) -> None:
        """Lands the next 100,000 lines of what comes after the history."""
        parts = sorted(self.folder.glob("new-*.ndjson"))
        if not parts:
            parts = self._write_new_events()
        self.command("land", str(parts[0]))
        parts[0].unlink()

    @property
    def _slices(self) -> int:
        return self.events // _SLICE

    @property
    def _history(self) -> History:
        return History(_SLICE, self._slices + 1)

    def _note(self, name: str) -> Path:
        notes = self.folder / "notes"
        notes.mkdir(exist_ok=True)
        return notes / name

    def _write_new_events(self) -> list[Path]:
        number = self._slices + len(list(self.folder.glob("notes/new-*.written")))
        whole = self.folder / "following.ndjson"
        self._history.write_events(whole, number)
        parts = []
        with whole.open("rb") as lines:
            while part := list(islice(lines, _NEW)):
                parts.append(self.folder / f"new-{number}-{len(parts):03}.ndjson")
                parts[-1].write_bytes(b"".join(part))
        self._note(f"new-{number}.written").touch()
        whole.unlink()
        return parts


def kept(text: str) -> KeptHistory:
    """The history of so many events: `50M`. Raises `SystemExit` for other text."""
    if not text.endswith("M") or not text[:-1].isdecimal() or int(text[:-1]) == 0:
        raise SystemExit(f"error: --events {text}: give millions, 50M")
    return KeptHistory(KEPT / text, int(text[:-1]) * _SLICE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", default="50M")
    history = kept(parser.parse_args().events)
    history.make()
    print(history.warehouse)


if __name__ == "__main__":
    main()
