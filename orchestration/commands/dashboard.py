"""What people look at: the dashboard, why a step is not done, a copy to hand out."""

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ingest.errors import WarehouseError
from ingest.settings import Settings
from ingest.store import outputs
from orchestration.commands.terminal import (
    AsJson,
    output,
    print_json,
    print_table,
    settings,
)

commands = typer.Typer()


@commands.command()
def dashboard(
    host: Annotated[
        str, typer.Option(help="Where to listen; only this machine by default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the dashboard.")] = 8501,
    now: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            envvar="LMS_NOW",
            help="Look as if it were this moment, in UTC: 2026-10-23 12:00:00.",
        ),
    ] = None,
) -> None:
    """Serve the dashboard on the published snapshot; it follows new ones by itself.

    Sharing it: docs/dashboard.md.
    """
    from serving import access
    from serving.dashboard import app

    environment = {**os.environ, **({"LMS_NOW": now} if now else {})}
    # What is wrong with a setting is said here, not on every page.
    shown = Settings.from_environment(environment)
    access.scope_of(shown.dashboard_access, viewer=None)
    if host not in ("127.0.0.1", "localhost", "::1") and not shown.dashboard_access:
        raise WarehouseError(
            f"--host {host}: others could see every learner; set LMS_DASHBOARD_ACCESS "
            "to a file that says who may see what, behind a proxy that names the user"
        )
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
    }
    output.print(f"The dashboard is on http://{host}:{port}; Ctrl-C ends it.")
    sys.stdout.flush()
    program = [sys.executable, "-m", "streamlit", "run", app.__file__]
    arguments = [f"--{name}={value}" for name, value in options.items()]
    os.execve(sys.executable, [*program, *arguments], environment)


@commands.command("why")
def why_command(
    user: Annotated[str, typer.Argument(help="The learner's id.")],
    class_id: Annotated[str, typer.Argument(metavar="CLASS", help="The class's id.")],
    as_json: AsJson = False,
) -> None:
    """Say why a learner's step is done, or what is missing."""
    from serving.access import Scope
    from serving.questions.why import register_at, why
    from serving.reader import Follower

    follower = Follower(settings().published_snapshot, now=settings().now or None)
    with follower.reader(Scope()) as reader:
        answer = why(reader, user, class_id, register_at(settings().quiz_register))
    if as_json:
        print_json(msgspec.to_builtins(answer))
        return
    print_table(
        f"{answer.class_id} ({answer.title}): {answer.because}",
        ["part", "done", "why"],
        [
            (part.part, "yes" if part.is_done else "no", part.because)
            for part in answer.parts
        ],
    )


@commands.command()
def snapshot(
    without_names: Annotated[
        bool,
        typer.Option(
            "--without-names", help="Write a copy in which no learner's id stands."
        ),
    ] = False,
    path: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Where to; else without-names.duckdb in this folder."
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="The key of the hashes, at least 16 bytes, to get the same ones "
            "again; without it they are other ones each time."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the published snapshot, or write a copy of it without learners' names."""
    from serving import without_names as nameless
    from serving.access import Scope
    from serving.reader import Follower

    if not without_names and (path or key_file):
        raise typer.BadParameter("--output and --key-file go with --without-names")
    published = settings().published_snapshot
    if without_names:
        path = path or Path("without-names.duckdb")
        outputs.check(path, settings().warehouse)
        written = nameless.write(
            published, path, nameless.read_key(key_file), now=settings().now or None
        )
        answer = {
            "path": str(path),
            "learners": written.learners,
            "bytes": written.bytes,
        }
    else:
        with Follower(published).reader(Scope()) as reader:
            answer = {
                "path": str(published),
                "load_id": reader.load_id,
                "published_at": reader.published_at,
            }
    if as_json:
        print_json(answer)
    else:
        print_table("", ["", "value"], list(answer.items()))
