"""Tries to break the promises, part by part: `make torture`, or

    python -m tests.support.torture [PART ...] [--seed N] [--count N] [--times N]

Each part says what it tried, how often, and what was lost; the same seed and count try
the same. `--times 10` tries ten times as much of each part, for a night. Exit code 1
when a promise did not hold. docs/reliability.md says what each part does.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom

from tests.support.torture.tally import Tally


@dataclass(frozen=True)
class Part:
    """One row of the table; `count` is how much of it a plain `make torture` does."""

    name: str
    count: int
    run: Callable[[int, int], Tally]


def parts() -> list[Part]:
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

    cheap, dear = (
        ("first land", "land", "publish", "retry"),
        (*("refresh", "rebuild", "snapshot", "replay", "erase"),),
    )
    return [
        Part("calls", 5, lambda s, n: disk_faults.calls(s, n, cheap)),
        Part(
            "calls-derive",
            2,
            lambda s, n: disk_faults.calls(s, n, dear, in_each_way=False),
        ),
        Part("calls-spool", 10, spool_faults.calls),
        Part("power-spool", 15, spool_faults.power),
        Part("power", 10, lambda s, n: disk_faults.power(s, n, cheap)),
        Part("power-derive", 1, lambda s, n: disk_faults.power(s, n, dear)),
        Part("log", 10_000, damage.log),
        Part("files", 30, damage.files),
        Part("clocks", 400, clocks.clocks),
        Part("writers", 2, writers.writers),
        Part("load", 60, load.load),
        Part("kills", 1, kills.kills),
        Part("kills-dagster", 2, kills.dagster),
        Part("histories", 100, histories.histories),
    ]


def main() -> int:
    known = parts()
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.torture", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "parts", nargs="*", choices=[[], *(part.name for part in known)], metavar="PART"
    )
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32))
    parser.add_argument("--count", type=int, help="how much, instead of a part's own")
    parser.add_argument("--times", type=int, default=1, help="this many times as much")
    given = parser.parse_args()
    print("| part | seed | count | tried | refused | broken | seconds | |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    broken: list[str] = []
    for part in known:
        if given.parts and part.name not in given.parts:
            continue
        count = (given.count or part.count) * given.times
        print(f"{part.name}: seed {given.seed}, count {count}", file=sys.stderr)
        began = time.monotonic()
        tally = part.run(given.seed, count)
        print(
            f"| {part.name} | {given.seed} | {count} | {tally.tried:,} "
            f"| {tally.refused:,} | {len(tally.broken)} "
            f"| {time.monotonic() - began:.0f} | {'; '.join(tally.notes)} |",
            flush=True,
        )
        broken += [f"{part.name}: {what}" for what in tally.broken]
    for what in broken:
        print(f"broken: {what}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
