"""What others make of it: a real learning record store, and the CloudEvents SDK.

Ralph (PyPI: ralph-malph) cannot share our environment: its command wants an older click
than dbt does. `make test-lrs` makes one for it.
"""

import json
import os
import socket
import subprocess
import urllib.request
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from operator import itemgetter
from pathlib import Path

import pytest

from orchestration.outbox import delivery, integration_events
from orchestration.outbox.integration_events import Format
from tests.support.builders import Warehouse
from tests.support.publishing import (
    AT,
    GOLDEN_FACTS,
    Json,
    Signal,
    derive,
    files,
    to,
    wait_until,
)

BIN = Path(os.environ.get("LMS_TEST_LRS", "/nowhere"))

pytestmark = [
    pytest.mark.lrs,
    pytest.mark.skipif(not BIN.is_dir(), reason="run it with `make test-lrs`"),
]

USER, PASSWORD = "warehouse", "it's secret"

# As it comes, the file backend of ralph 5.1.0 answers 500 to every POST but the first:
# it makes a file, and never appends to one.
SERVE = """
import sys, uvicorn
from ralph.backends.data.base import BaseOperationType
from ralph.backends.lrs.fs import FSLRSBackend
FSLRSBackend.default_operation_type = BaseOperationType.APPEND
uvicorn.run("ralph.api:app", port=int(sys.argv[1]))
"""


class RecordStore:
    """Ralph with its statements in a file; it can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "statements").mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            **os.environ,
            "RALPH_APP_DIR": str(folder),
            "RALPH_RUNSERVER_BACKEND": "fs",
            "RALPH_BACKENDS__LRS__FS__DEFAULT_DIRECTORY_PATH": str(
                folder / "statements"
            ),
        }
        scopes = ["-s", "statements/write", "-s", "statements/read"]
        subprocess.run(
            [
                *(str(BIN / "ralph"), "auth", "-u", USER, "-p", PASSWORD, *scopes),
                *("-M", "mailto:warehouse@lms.example", "--write-to-disk"),
            ],
            env=self.environment,
            check=True,
            capture_output=True,
        )
        self.url = (
            f"lrs=http://{USER}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}"
            "/xAPI/statements"
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(
                [str(BIN / "python"), "-c", SERVE, str(self.port)],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._answers)
            yield
        finally:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def statements(self) -> list[Json]:
        """All of them as they were sent, by id: ralph keeps no other order."""
        credentials = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/xAPI/statements?limit=100",
            headers={
                "Authorization": f"Basic {credentials}",
                "X-Experience-API-Version": "1.0.3",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            found = json.load(response)["statements"]
        return by_id(
            {k: v for k, v in statement.items() if k not in ("stored", "authority")}
            for statement in found
        )


def by_id(statements: Iterable[Json]) -> list[Json]:
    return sorted(statements, key=itemgetter("id"))


def all_files(warehouse: Warehouse) -> list[Json]:
    return by_id(s for file in files(warehouse, "xapi").values() for s in file)


@pytest.fixture
def record_store(tmp_path: Path) -> RecordStore:
    (tmp_path / "lrs").mkdir()
    return RecordStore(tmp_path / "lrs")


def every_kind_of_signal(users: list[str]) -> list[Signal]:
    return [
        Signal(
            f"{user_number}-{kind}",
            kind,
            user.replace("'", "''"),
            AT + timedelta(seconds=user_number),
        )
        for user_number, user in enumerate(users)
        for kind in integration_events.newest()
    ]


def test_a_record_store_takes_every_statement_once(
    warehouse: Warehouse, record_store: RecordStore
) -> None:
    users = ["u1", 'O\'Hara; "drop" \\ é 🎓', "x" * 256, "two\nlines\t", "a%2Fb/ü?#"]
    derive(warehouse, every_kind_of_signal(users))
    how = to(warehouse, xapi=record_store.url, timeout_sec=60)

    with record_store.running():
        first = delivery.publish(warehouse.path, how, ("cloudevents", "xapi"))
        assert first.failures == ()
        sent = all_files(warehouse)
        assert len(sent) == 20
        assert record_store.statements() == sent
        assert {s["actor"]["account"]["name"] for s in sent} == set(users)

        delivery.move(warehouse.path, how, "xapi lrs", 1)
        again = delivery.publish(warehouse.path, how, ("xapi",))
        assert again.failures == ()
        assert again.deliveries[-1].sent == 20
        assert record_store.statements() == sent, "the same statements, no second time"


def test_a_record_store_that_was_killed_gets_the_rest(
    warehouse: Warehouse, record_store: RecordStore
) -> None:
    derive(warehouse, every_kind_of_signal(["u1", "u2"]))
    how = to(warehouse, xapi=record_store.url, timeout_sec=60)
    with record_store.running():
        delivery.publish(warehouse.path, how, ("xapi",))
    derive(warehouse, every_kind_of_signal(["u1", "u2", "u3", "u4"]))
    [_, failed] = delivery.publish(warehouse.path, how, ("xapi",)).deliveries
    assert (failed.state, failed.behind) == ("failed", 8)
    with record_store.running():
        delivery.publish(warehouse.path, how, ("xapi",))
        sent = all_files(warehouse)
        assert record_store.statements() == sent
        assert len(sent) == 16


def test_a_record_store_refuses_what_we_never_send(
    warehouse: Warehouse,
    record_store: RecordStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other way round: it does look at what it gets."""
    derive(warehouse, every_kind_of_signal(["u1"]))
    how = to(warehouse, xapi=record_store.url, timeout_sec=60)
    whole = integration_events.statement
    with monkeypatch.context() as patch, record_store.running():
        patch.setattr(
            integration_events,
            "statement",
            lambda fact: {**whole(fact), "actor": {"objectType": "Agent"}},
        )
        [_, refused] = delivery.publish(warehouse.path, how, ("xapi",)).deliveries
        assert "answered 422" in str(refused.error)
        assert record_store.statements() == []


def in_their_environment(script: str, lines: list[bytes]) -> list[Json]:
    """What the script prints, a JSON value a line, when it is given these lines."""
    out = subprocess.run(
        [str(BIN / "python"), "-c", script],
        input=b"\n".join(lines) + b"\n",
        check=True,
        capture_output=True,
    )
    return [json.loads(line) for line in out.stdout.splitlines()]


def every_line(warehouse: Warehouse, event_format: Format) -> list[bytes]:
    derive(warehouse, every_kind_of_signal(["u1", "two\nlines", "é 🎓"]))
    delivery.publish(warehouse.path, to(warehouse), (event_format,))
    folder = warehouse.folder / "outbox" / event_format
    lines = [line for file in folder.iterdir() for line in file.open("rb")]
    return [line.strip() for line in lines] + integration_events.as_lines(
        event_format, GOLDEN_FACTS
    )


def test_a_statement_is_one_by_the_whole_specification(warehouse: Warehouse) -> None:
    """A store may be lax; ralph's own model of a statement is not."""
    lines = every_line(warehouse, "xapi")
    script = (
        "import json, sys\n"
        "from ralph.models.xapi.base.statements import BaseXapiStatement\n"
        "for line in sys.stdin.buffer:\n"
        "    statement = BaseXapiStatement.model_validate_json(line)\n"
        "    print(json.dumps(str(statement.verb.id)))\n"
    )
    verbs = in_their_environment(script, lines)
    assert verbs == [json.loads(line)["verb"]["id"] for line in lines]


def test_the_cloudevents_sdk_reads_what_is_published(warehouse: Warehouse) -> None:
    lines = every_line(warehouse, "cloudevents")
    script = (
        "import json, sys\n"
        "from cloudevents.core.formats.json import JSONFormat\n"
        "for line in sys.stdin.buffer:\n"
        "    event = JSONFormat().read(None, line)\n"
        "    print(json.dumps([event.get_id(), event.get_time().isoformat(),\n"
        "        event.get_extension('sequence'), event.get_data()]))\n"
    )
    read = in_their_environment(script, lines)
    for line, (event_id, moment, sequence, data) in zip(lines, read, strict=True):
        event = json.loads(line)
        assert event["id"] == event_id
        assert datetime.fromisoformat(event["time"]) == datetime.fromisoformat(moment)
        assert event["sequence"] == sequence
        assert event["data"] == data
