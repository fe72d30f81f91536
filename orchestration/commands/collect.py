"""`warehouse collect`, `warehouse tokens` and `warehouse quiz-register`."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from ingest.collector import tokens
from ingest.collector.tokens import DEFAULT_RATE, Token
from ingest.contracts.events import event_types
from ingest.errors import WarehouseError
from ingest.landing import quiz_register
from orchestration.commands.http_server import listen, serve
from orchestration.commands.terminal import AsJson, output, print_json, settings

commands = typer.Typer()
tokens_app = typer.Typer(
    name="tokens",
    help="Who may send events, and read: make tokens, list them, end them.",
    no_args_is_help=True,
)
commands.add_typer(tokens_app)


@commands.command()
def collect(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free.")] = 8080,
    max_age_sec: Annotated[
        float,
        typer.Option(min=0.1, max=3600, help="Hand a file to the landing zone after."),
    ] = 5,
    max_mb: Annotated[
        float, typer.Option(min=0.001, max=1024, help="... or at this size.")
    ] = 16,
) -> None:
    """Take events of players and Tally's webhooks over HTTP, into the landing zone.

    Runs until it gets SIGTERM or SIGINT. Variables say the rest: docs/collector.md.
    """
    import structlog

    from ingest.collector.app import make_app, settings_of
    from ingest.collector.metrics import Metrics, set_up_logs
    from ingest.spool.group_commit import GroupCommit
    from ingest.spool.writer import SpoolError

    set_up_logs()
    log = structlog.get_logger("collector")
    try:
        of_collector = settings_of(
            settings(),
            max_bytes=int(max_mb * 1024 * 1024),
            max_age_sec=max_age_sec,
        )
        listener = listen(host, port)
        metrics = Metrics()
        with GroupCommit(
            of_collector.spool,
            of_collector.landing,
            max_bytes=of_collector.max_bytes,
            max_age_sec=of_collector.max_age_sec,
            observe_sync=metrics.observe_sync,
        ) as spool:
            metrics.watch_spool(spool.state)
            served = make_app(of_collector, spool, metrics)
            serve(served, listener, name="collector")
        log.info("stopped")
    except (SpoolError, ValueError) as error:
        raise WarehouseError(str(error)) from error


@tokens_app.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Whose it is, like web-player.")],
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="A source it may write for. May be repeated; the first is "
            "that of events that name none."
        ),
    ] = None,
    event_type: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            help=f"Only this event type ({', '.join(event_types())}). May be repeated.",
        ),
    ] = None,
    reads: Annotated[
        bool,
        typer.Option(
            "--reads",
            help="May ask the read API, for what LMS_DASHBOARD_ACCESS gives NAME.",
        ),
    ] = False,
    rate: Annotated[
        float, typer.Option(help="Events, or requests to read, a second.")
    ] = DEFAULT_RATE,
    needs_learner: Annotated[
        bool,
        typer.Option(
            "--needs-learner",
            help="Only with a learner token beside it: for a token that browsers have.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a token, and print it: this once, for only its hash is kept."""
    token, text = tokens.create(
        settings().tokens,
        name,
        sources=source or (),
        types=event_type or (),
        rate=rate,
        needs_learner=needs_learner,
        reads=reads,
    )
    if as_json:
        print_json({**_facts(token), "token": text})
    else:
        print(text)


@tokens_app.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """Show all tokens that were ever made, without what they are."""
    book = tokens.read(settings().tokens)
    if as_json:
        print_json([_facts(token) for token in book.tokens])
        return
    table = Table(
        *("name", "sources", "types", "reads", "a second", "learner", "made"),
        "revoked",
    )
    for token in book.tokens:
        table.add_row(
            token.name,
            ", ".join(token.sources),
            ", ".join(token.types) or ("all" if token.sources else ""),
            "yes" if token.reads else "",
            f"{token.rate:g}",
            "needed" if token.needs_learner else "",
            token.created_at,
            token.revoked_at or "",
        )
    output.print(table)


@tokens_app.command("revoke")
def revoke_token(
    name: Annotated[str, typer.Argument(help="Whose token it is.")],
    as_json: AsJson = False,
) -> None:
    """End a token; a running service knows at once."""
    token = tokens.revoke(settings().tokens, name)
    if as_json:
        print_json(_facts(token))
    else:
        print(f"{token.name}: revoked at {token.revoked_at}")


@commands.command("quiz-register")
def quiz_register_command(as_json: AsJson = False) -> None:
    """Show the quiz register, or the line of it that is wrong."""
    path = settings().quiz_register
    quizzes = quiz_register.read(path).quizzes
    if as_json:
        print_json(quizzes)
        return
    table = Table(*quiz_register.COLUMNS, title=str(path))
    for quiz in quizzes:
        table.add_row(
            quiz.form_id,
            quiz.class_id or "any",
            quiz.score_field,
            str(quiz.max_score),
            f"{quiz.pass_mark} %",
            "yes" if quiz.keep_free_text else "no",
        )
    output.print(table)


def _facts(token: Token) -> dict[str, Any]:
    """All about a token but its hash."""
    return {name: value for name, value in asdict(token).items() if name[0] != "_"} | {
        "sha256": token.sha256[:12]
    }
