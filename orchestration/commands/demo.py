"""Data to try things with: `warehouse demo-data`."""

from pathlib import Path
from typing import Annotated

import typer

from ingest import demo
from ingest.errors import WarehouseError
from orchestration.commands.terminal import (
    AsJson,
    print_json,
    print_table,
)

commands = typer.Typer()


@commands.command("demo-data")
def demo_data(
    path: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    learners: Annotated[int, typer.Option(min=1)] = 60,
    days: Annotated[int, typer.Option(min=1)] = 21,
    seed: Annotated[int, typer.Option(help="The same seed writes the same files.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Write a realistic landing zone, with all that goes wrong in one."""
    try:
        summary = demo.write_demo_data(path, learners=learners, days=days, seed=seed)
    except OSError as error:
        raise WarehouseError(str(error)) from error
    if as_json:
        print_json(vars(summary))
    else:
        print_table(f"Written to {path}", ["", "count"], list(vars(summary).items()))
