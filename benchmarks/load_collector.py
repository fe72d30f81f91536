"""How many events a second the collector acknowledges, and how long each batch takes.

    python -m benchmarks.load_collector --events 100000 --connections 8

Starts a real collector in a scratch folder, sends batches over loopback from another
process, one after the other on each connection, and stops it. Then it reads the landing
zone: every acknowledged event has to be there once. Exits with 1 if one is not, or if a
bound of the options --at-least and --p99-ms is missed.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.service import running


@dataclass(frozen=True)
class Result:
    acknowledged: frozenset[str]
    seconds: float
    latencies: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """Milliseconds that this share of the batches took at most."""
        return 1000 * sorted(self.latencies)[int(share * (len(self.latencies) - 1))]


def batches(events: int, size: int) -> list[tuple[list[str], bytes]]:
    """The ids and the body of each batch."""
    made = []
    for first in range(0, events, size):
        ids = [str(uuid.uuid4()) for _ in range(min(size, events - first))]
        body = [
            {
                "event_id": event_id,
                "type": "VIDEO_PING",
                "schema_version": 2,
                "user_id": f"learner-{first % 500}",
                "class_id": "algebra",
                "course_id": "maths",
                "occurred_at": "2026-10-01T08:00:00.123Z",
                "payload": {
                    "video_id": "v7",
                    "position_sec": 10.5 * number,
                    "duration_sec": 600,
                    "playback_rate": 1.25,
                    "session_id": "s1",
                },
            }
            for number, event_id in enumerate(ids)
        ]
        made.append((ids, json.dumps(body).encode()))
    return made


@contextmanager
def collector(folder: Path) -> Iterator[tuple[int, str]]:
    """A running collector: its port, and a token for it."""
    environment = {
        **os.environ,
        "LMS_WAREHOUSE": str(folder / "warehouse.duckdb"),
        "LMS_LANDING": str(folder / "landing"),
        "LMS_SPOOL": str(folder / "spool"),
        "LMS_COLLECTOR": str(folder / "collector"),
    }
    with running(
        "collect", environment, folder / "collector.log", *("--source", "load")
    ) as service:
        yield service


async def send(
    port: int, token: str, connections: int, work: list[tuple[list[str], bytes]]
) -> Result:
    """Sends each connection's share of the batches, one after the other."""
    acknowledged: set[str] = set()
    latencies: list[float] = []
    head = (
        "POST /v1/events HTTP/1.1\r\nHost: collector\r\nContent-Type: application/json"
        f"\r\nAuthorization: Bearer {token}\r\nContent-Length: "
    )

    async def connection(mine: list[tuple[list[str], bytes]]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for ids, body in mine:
            began = time.perf_counter()
            writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            content = await reader.readexactly(length)
            latencies.append(time.perf_counter() - began)
            if answer.startswith(b"HTTP/1.1 200"):
                if content.startswith(b'{"accepted":%d,' % len(ids)):
                    acknowledged.update(ids)
            elif not answer.startswith((b"HTTP/1.1 429", b"HTTP/1.1 503")):
                raise SystemExit(f"error: {answer.decode()}{content.decode()}")
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(
        *(connection(work[first::connections]) for first in range(connections))
    )
    seconds = time.perf_counter() - began
    return Result(frozenset(acknowledged), seconds, tuple(latencies))


def landed(folder: Path) -> list[str]:
    return [
        json.loads(line)["event_id"]
        for file in (folder / "landing" / "events").glob("*.ndjson")
        for line in file.read_bytes().splitlines()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--at-least", type=float, help="events a second")
    parser.add_argument("--p99-ms", type=float, help="at most")
    options = parser.parse_args()
    missed = False
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory(prefix="lms-load-") as name:
            folder = Path(name)
            work = batches(options.events, options.batch)
            with collector(folder) as (port, token):
                asyncio.run(send(port, token, 1, batches(400, 20)))  # warm
                result = asyncio.run(send(port, token, options.connections, work))
            ids = landed(folder)
            lost = len(result.acknowledged - set(ids))
            rate = len(result.acknowledged) / result.seconds
            print(
                f"{len(result.acknowledged):,} of {options.events:,} events "
                f"acknowledged in {result.seconds:.1f} s: {rate:,.0f} a second in "
                f"batches of {options.batch} on {options.connections} connections; "
                f"a batch took p50 {result.percentile(0.5):.1f}, "
                f"p99 {result.percentile(0.99):.1f}, "
                f"at most {result.percentile(1):.1f} ms; {lost} lost, "
                f"{len(ids) - len(set(ids))} twice",
                flush=True,
            )
            missed |= lost > 0 or len(ids) != len(set(ids))
            missed |= options.at_least is not None and rate < options.at_least
            missed |= (
                options.p99_ms is not None and result.percentile(0.99) > options.p99_ms
            )
    sys.exit(missed)


if __name__ == "__main__":
    main()
