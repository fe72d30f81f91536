"""Trying an edit: `warehouse sandbox`, and what the edit changes, `warehouse diff`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.commands.terminal import (
    AsJson,
    markdown_table,
    output,
    print_json,
    print_table,
    settings,
    short_path,
)

if TYPE_CHECKING:
    from orchestration.shadow.sandbox import Diff

commands = typer.Typer()


@commands.command()
def sandbox(
    name: Annotated[
        str | None, typer.Argument(help="Of the sandbox; without it, all are listed.")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove it instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a private copy of what is published, to try an edit in."""
    from orchestration.shadow import sandbox as sandboxes

    path = settings().warehouse
    if name is None:
        found = sandboxes.sandboxes(path)
        if as_json:
            print_json(found)
        else:
            print_table(
                "",
                ["sandbox", "through load", "bytes", "path"],
                [(each.name, each.load_id, each.bytes, each.path) for each in found],
            )
        return
    if remove:
        sandboxes.remove(path, name)
        if as_json:
            print_json({"removed": name})
        else:
            output.print(f"removed {name}", markup=False)
        return
    made = sandboxes.make(path, name)
    if as_json:
        print_json(made)
        return
    place = short_path(made.path)
    for line in (
        f"{place}: {made.bytes / 1e6:.1f} MB, through load {made.load_id}",
        f"edit a model, then: warehouse diff {name}",
        f"or build it yourself: LMS_SANDBOX={made.path} dbt build --target sandbox "
        "--project-dir dbt_project --profiles-dir dbt_project",
    ):
        output.print(line, markup=False, highlight=False, soft_wrap=True)


@commands.command()
def diff(
    name: Annotated[str, typer.Argument(help="Of the sandbox.")],
    build: Annotated[
        bool, typer.Option(help="First build what an edit reaches, with dbt.")
    ] = True,
    examples: Annotated[
        int, typer.Option(help="Of each kind of change in each table.")
    ] = 1,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a review.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what edits to the project change in a sandbox, against what is published."""
    from orchestration.shadow import sandbox as sandboxes

    if markdown and as_json:
        raise typer.BadParameter("--markdown and --json are two ways to print it")
    found = sandboxes.diff(settings().warehouse, name, build=build, examples=examples)
    if as_json:
        print_json(found.as_json())
    elif markdown:
        print(_as_markdown(found))
    else:
        _show(found)


SUMMARY = ("table", "rows", "added", "removed", "changed", "changed columns")
EXAMPLES = ("table", "change", "row", "published -> sandbox")


def _facts(found: "Diff") -> dict[str, str]:
    """What is said before the tables; nothing that is empty but edits."""
    facts = {
        "edited": ", ".join(found.edited) or "no model",
        "downstream": ", ".join(found.downstream) or "nothing",
        "new": ", ".join(found.new),
        "moved": ", ".join(f"{old} -> {new}" for old, new in found.moved.items()),
        "gone": ", ".join(found.gone),
        "compared": f"{found.compared} tables and views, through load {found.load_id}, "
        f"in {found.seconds:.1f} s",
    }
    return {name: text for name, text in facts.items() if text}


def _show(found: "Diff") -> None:
    from orchestration.shadow import difference
    from orchestration.shadow import sandbox as sandboxes

    for name, text in _facts(found).items():
        output.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)
    for name, changes in found.breaking.items():
        output.print(
            f"breaking: {name}: {', '.join(changes)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if not found.differences:
        if not (found.gone or found.moved):
            output.print("Nothing differs from what is published.")
        return
    print_table(
        "What differs from what is published",
        SUMMARY,
        sandboxes.summary_rows(found.differences),
    )
    if rows := difference.example_rows(found.differences):
        print_table("Examples", EXAMPLES, rows)


def _as_markdown(found: "Diff") -> str:
    """For a review: everything that `_show` shows, and each table with what breaks."""
    from orchestration.shadow import difference
    from orchestration.shadow import sandbox as sandboxes

    names = {new: old for old, new in found.moved.items()}
    rows: list[tuple[Any, ...]] = [
        (*row, ", ".join(found.breaking.get(names.get(each.table, each.table), ())))
        for each, row in zip(
            found.differences, sandboxes.summary_rows(found.differences), strict=True
        )
    ]
    shown = {names.get(each.table, each.table) for each in found.differences}
    rows += [
        (name, None, None, None, None, "", ", ".join(found.breaking.get(name, ())))
        for name in sorted({*found.gone, *found.breaking} - shown)
    ]
    parts = [
        f"### Sandbox `{found.sandbox}`, against what is published",
        "\n".join(f"- {name}: {text}" for name, text in _facts(found).items()),
        markdown_table((*SUMMARY, "breaking"), rows)
        if rows
        else "Nothing differs from what is published.",
    ]
    if examples := difference.example_rows(found.differences):
        parts.append(markdown_table(EXAMPLES, examples))
    return "\n\n".join(parts)
