"""`warehouse serve`: the read API."""

from typing import Annotated

import typer

from orchestration.commands.http_server import listen
from orchestration.commands.http_server import serve as serve_app
from orchestration.commands.terminal import settings

commands = typer.Typer()


@commands.command()
def serve(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free.")] = 8090,
) -> None:
    """Answer the LMS's pages over HTTP from the published snapshot.

    Runs until it gets SIGTERM or SIGINT. Who may read what: docs/read-api.md.
    """
    from ingest.collector.metrics import set_up_logs
    from serving.api.app import ApiSettings, make_app
    from serving.api.served import Following

    set_up_logs()
    chosen = ApiSettings.of(settings())
    following = Following(chosen.published, now=chosen.now)
    app = make_app(chosen, following)
    with following.running():
        serve_app(app, listen(host, port), name="read-api")
