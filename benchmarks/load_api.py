"""How many requests a second the read API answers for one learner's progress.

    python -m benchmarks.load_api --learners 40000 --classes 12

Starts a real read API on a snapshot with so many learners, each in so many classes (as
many as 50 million events of benchmarks/histories.py have), or on the published snapshot
of --warehouse, and asks it over loopback from another process. Exits with 1 if a bound
of --at-least and --p99-ms is missed, or an answer is not of the learner asked for.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import duckdb

from benchmarks.service import cpu_seconds, peak_mb, running


@dataclass(frozen=True)
class Result:
    seconds: float
    latencies: tuple[float, ...]
    wrong: int

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds that this share of the requests took at most."""
        return 1000 * sorted(self.latencies)[int(share * (len(self.latencies) - 1))]


def publish(path: Path, learners: int, classes: int) -> None:
    """A snapshot with what the read API needs, and one public model."""
    path.parent.mkdir(parents=True)
    columns = {
        "user_id": "varchar",
        "class_id": "varchar",
        "course_id": "varchar",
        "video_max_position_sec": "integer",
        "video_completed": "integer",
        "quiz_passed": "integer",
        "quiz_score": "integer",
    }
    with duckdb.connect(str(path)) as connection:
        for schema in ("progress", "published", "bookkeeping", "catalogue"):
            connection.execute(f"create schema {schema}")
        connection.execute(
            f"""
            create table published.snapshot as
            select
                1::bigint as load_id, timestamp '2026-01-01' as published_at,
                'events-0001' as generation;
            create table catalogue.catalogue_snapshot as
            select timestamp '2026-01-01' as valid_from;
            create table progress.v_user_progress as
            select
                'learner-' || learner as user_id,
                'course-' || learner % 100 || '-class-' || class as class_id,
                'course-' || learner % 100 as course_id,
                (hash(learner, class) % 1000)::integer as video_max_position_sec,
                1 as video_completed, 0 as quiz_passed, 7 as quiz_score
            from range({learners}) as l (learner), range({classes}) as c (class)
            order by hash(learner, class)
            """
        )
        rows = ", ".join(
            f"('progress', 'v_user_progress', '', {place}, '{name}', '{kind}', '', "
            f"{name in ('user_id', 'class_id')}, false)"
            for place, (name, kind) in enumerate(columns.items())
        )
        connection.execute(
            "create table bookkeeping.public_column as select * from (values "
            f"{rows}) as columns (schema_name, model, model_description, place, "
            "column_name, data_type, description, is_key, counts_learners)"
        )


@contextmanager
def read_api(folder: Path, warehouse: Path) -> Iterator[tuple[int, str]]:
    """A running read API, its port, and a token for it."""
    environment = {
        **os.environ,
        "LMS_WAREHOUSE": str(warehouse),
        "LMS_COLLECTOR": str(folder / "collector"),
    }
    with running("serve", environment, folder / "log", "--reads") as service:
        yield service


async def ask(
    port: int, token: str, connections: int, learners: list[str], requests: int
) -> Result:
    """Each connection asks for one learner after the other."""
    latencies: list[float] = []
    wrong = 0

    async def connection(seed: int) -> None:
        nonlocal wrong
        chosen = random.Random(seed)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(requests // connections):
            learner = chosen.choice(learners)
            began = time.perf_counter()
            writer.write(
                f"GET /v1/progress?user_id={quote(learner, safe='')} HTTP/1.1\r\n"
                f"Host: api\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            content = await reader.readexactly(length)
            latencies.append(time.perf_counter() - began)
            rows = json.loads(content).get("rows", ())
            wrong += not rows or any(row["user_id"] != learner for row in rows)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(connection(seed) for seed in range(connections)))
    return Result(time.perf_counter() - began, tuple(latencies), wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learners", type=int, default=40_000)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--warehouse", type=Path, help="ask what it has published")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--at-least", type=float, help="requests a second")
    parser.add_argument("--p99-ms", type=float, help="at most")
    options = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory(prefix="lms-load-") as name:
        folder = Path(name)
        warehouse = options.warehouse or folder / "warehouse.duckdb"
        snapshot = warehouse.parent / "published" / warehouse.name
        if options.warehouse is None:
            publish(snapshot, options.learners, options.classes)
        with duckdb.connect(str(snapshot.resolve()), read_only=True) as connection:
            learners = [
                user_id
                for (user_id,) in connection.execute(
                    "select distinct user_id from progress.v_user_progress"
                ).fetchall()
            ]
        with read_api(folder, warehouse) as (port, token):
            pid = json.loads((folder / "log").read_text().splitlines()[0])["pid"]
            asyncio.run(ask(port, token, 1, learners, 200))  # warm
            for _ in range(options.repeat):
                began = cpu_seconds(pid)
                result = asyncio.run(
                    ask(port, token, options.connections, learners, options.requests)
                )
                cpu = 1000 * (cpu_seconds(pid) - began) / len(result.latencies)
                print(
                    f"{result.rate:,.0f} requests a second for one of "
                    f"{len(learners):,} learners on {options.connections} connections: "
                    "p50 "
                    f"{result.percentile(0.5):.1f}, p99 {result.percentile(0.99):.1f}, "
                    f"at most {result.percentile(1):.1f} ms; {cpu:.2f} ms of CPU each, "
                    f"{peak_mb(pid):,.0f} MB at most; {result.wrong} wrong",
                    flush=True,
                )
                missed |= result.wrong > 0
                missed |= (
                    options.at_least is not None and result.rate < options.at_least
                )
                missed |= (
                    options.p99_ms is not None
                    and result.percentile(0.99) > options.p99_ms
                )
    sys.exit(missed)


if __name__ == "__main__":
    main()
