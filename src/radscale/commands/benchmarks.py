"""Our speed beside peers'."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from radscale.commands.shared import console, show_progress

app = typer.Typer()


@app.command()
def bench(
    part: Annotated[str | None, typer.Argument(help="What to measure; none: list the parts.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write .json or .md.", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: does it run?")] = False,
    repeat: Annotated[int | None, typer.Option(min=1, help="Rounds.  [default: by part]", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the made data.")] = 0,
    dataset: Annotated[
        Path | None, typer.Option(help="loader, text: read your own.  [default: made images]", show_default=False)
    ] = None,
) -> None:
    """Our speed beside peers', side by side in one run. Peers that are not installed are named and left out."""
    from radscale.benchmarks import PARTS, Options, run_part, tables

    if part is None:
        for name, summary in PARTS.items():
            console.print(f"{name}: {summary}", highlight=False, soft_wrap=True)
        return
    if out is not None:
        tables.check_out(out)
    with show_progress("bench") as progress:
        results = run_part(part, Options(quick, repeat, seed, dataset), progress)
    for result in results:
        shown = Table(title=f"{result.title}, per {result.unit}")
        for column in tables.COLUMNS:
            shown.add_column(column, justify="left" if column == "who" else "right")
        for row in tables.rows(result):
            shown.add_row(*row)
        console.print(shown)
        for line in tables.notes(result):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(tables.machine(), highlight=False, soft_wrap=True, markup=False)
    if out is not None:
        tables.write(out, part, results)
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)
