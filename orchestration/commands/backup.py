"""Backups, and what they are for: `warehouse backup`, `warehouse restore`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.errors import WarehouseError
from orchestration.commands.terminal import (
    AsJson,
    errors,
    output,
    print_json,
    print_table,
    settings,
    short_path,
)

if TYPE_CHECKING:
    from orchestration.backup.restore import Plan, Restored

commands = typer.Typer()

Folder = Annotated[
    Path | None,
    typer.Argument(help="The folder of the backups; else that of LMS_BACKUP."),
]


@commands.command("backup")
def backup_command(
    folder: Folder = None,
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="How many backups stay; else LMS_BACKUPS_KEPT."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Back up what cannot be derived: what is new since the last backup there.

    It is read back before it counts. Readers go on reading; who writes to the warehouse
    waits while it is read.
    """
    from orchestration.backup.backup import backup

    made = backup(
        settings().warehouse,
        _folder(folder),
        keep=keep or settings().backups_kept,
    )
    if as_json:
        print_json(made)
        return
    print_table("", ["table", "rows"], list(made.rows.items()))
    output.print(
        f"backup {made.number}, through load {made.load_id}: {made.new_bytes:,} of "
        f"{made.bytes:,} bytes are new, {made.seconds:.1f} s; kept in "
        f"{short_path(made.folder)}: {', '.join(map(str, made.kept))}",
        markup=False,
        soft_wrap=True,
    )


@commands.command("restore")
def restore_command(
    folder: Folder = None,
    number: Annotated[
        int | None, typer.Option(min=1, help="This backup; else the newest.")
    ] = None,
    from_published: Annotated[
        bool,
        typer.Option(
            "--from-published", help="From the snapshot that readers have, instead."
        ),
    ] = False,
    from_landing: Annotated[
        bool,
        typer.Option(
            "--from-landing", help="By landing again what was landed, instead."
        ),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="In the place of the warehouse that is there."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what would be restored, and what not.")
    ] = False,
    no_refresh: Annotated[
        bool,
        typer.Option("--no-refresh", help="Leave it to a later refresh to derive."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the warehouse again: from a backup, or without one from what else is there.

    What cannot be restored is said first. Then the warehouse is made beside its place,
    checked, put there by a rename, and derived and published.
    """
    from orchestration.backup import restore

    if from_published + from_landing + (folder is not None) > 1 or (
        number and (from_published or from_landing)
    ):
        raise typer.BadParameter(
            "give a folder of backups, --from-published or --from-landing, one of them"
        )
    planned = restore.plan(
        settings(),
        "published" if from_published else "landing" if from_landing else "backup",
        folder=None if from_published or from_landing else _folder(folder),
        number=number,
        replace=replace,
    )
    _show_plan(planned)
    if dry_run:
        if as_json:
            print_json(_plan_as_json(planned))
        return
    restored = restore.restore(settings(), planned)
    if as_json:
        print_json({**_plan_as_json(planned), "restored": _restored_as_json(restored)})
    else:
        print_table("Restored", ["table", "rows"], list(restored.rows.items()))
        if restored.erased_again:
            output.print(
                f"{restored.erased_again:,} learners had been erased since: they are "
                "erased from it, too"
            )
    for load in restored.broken_loads:
        errors.print(f"error: load {load.load_id}: {load.problem}")
    if not no_refresh:
        from orchestration.refresh import refresh

        refreshed = refresh(settings().warehouse)
        for node in refreshed.derivation.failures:
            errors.print(f"error: {node.problem}")
        if not refreshed.derivation.succeeded:
            raise typer.Exit(1)
        if not as_json:
            output.print("Derived and published again.")
    elif not as_json:
        output.print("Nothing is derived yet: run `warehouse refresh`.")
    if restored.broken_loads:
        raise typer.Exit(1)


def _folder(given: Path | None) -> Path:
    folder = given or settings().backup
    if folder is None:
        raise WarehouseError("no folder of backups: give one, or set LMS_BACKUP")
    return folder


def _show_plan(planned: "Plan") -> None:
    made = (
        f", made {planned.made_at:%Y-%m-%d %H:%M:%S} (UTC)" if planned.made_at else ""
    )
    errors.print(
        f"from {planned.taken_from}{made}, through load {planned.through_load}"
    )
    if planned.files:
        errors.print(f"landed since, and landed again: {len(planned.files):,} files")
    if planned.unknown_files:
        errors.print(f"landed anew: {len(planned.unknown_files):,} files")
    for line in planned.lost:
        errors.print(f"cannot be restored: {line}")


def _plan_as_json(planned: "Plan") -> dict[str, object]:
    return {
        "source": planned.source,
        "taken_from": planned.taken_from,
        "made_at": planned.made_at,
        "through_load": planned.through_load,
        "files": [str(each.path) for each in planned.files],
        "unknown_files": [str(path) for path in planned.unknown_files],
        "lost": list(planned.lost),
        "tombstones": len(planned.tombstones),
    }


def _restored_as_json(restored: "Restored") -> dict[str, object]:
    return {
        "rows": restored.rows,
        "load_id": restored.load_id,
        "erased_again": restored.erased_again,
        "broken_loads": restored.broken_loads,
        "seconds": restored.seconds,
    }
