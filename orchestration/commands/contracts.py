"""The contracts of all events, and what is made from them: `warehouse contracts`."""

from typing import Annotated

import typer

from ingest.contracts import generated, versions
from orchestration.commands.terminal import (
    AsJson,
    output,
    print_json,
    print_table,
    settings,
)
from orchestration.outbox import integration_events

commands = typer.Typer()


@commands.command("contracts")
def show_contracts(
    write: Annotated[
        bool,
        typer.Option(help="Write what is made from the contracts; list what changed."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the versions of every event type, and what of each was seen."""
    if write:
        changed = _write_contracts()
        if as_json:
            print_json(changed)
        else:
            output.print("\n".join(changed) or "nothing changed", markup=False)
        return
    usage = versions.usage(settings().warehouse)
    if as_json:
        print_json(usage)
        return
    print_table(
        "Contracts",
        ["type", "version", "status", "rows seen", "last seen (UTC)", "fields"],
        [
            (
                version.type,
                version.version,
                version.status,
                version.rows_seen,
                version.last_seen,
                version.fields,
            )
            for version in usage
        ],
    )


def _write_contracts() -> list[str]:
    """Writes the files that are not as the contracts want them, and returns those."""
    from orchestration.derive.dbt_project import DBT_PROJECT

    files = {
        **versions.new_states(),
        **generated.generated_files(DBT_PROJECT),
        **integration_events.generated_files(),
    }
    changed = []
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(str(path.relative_to(DBT_PROJECT.parent)))
    return changed
