"""What a frozen encoder is good for."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from radscale.commands.shared import (
    ConfigOption,
    ModelOption,
    NewOut,
    console,
    labels_of,
    make_settings,
    new_folder,
    print_rows,
    remove_folder,
    show_progress,
)
from radscale.errors import InputError

app = typer.Typer()


@app.command()
def probe(
    encoder: Annotated[Path, typer.Argument(help="Checkpoint or open weights: file or folder.")],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: NewOut,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="findings, tubes, vindr_cxr, nih, ranzcr_tubes, ranzcr_placement, all, or task names.", show_default=False
        ),
    ] = None,
    model: ModelOption = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label table.  \\[default: DATASET/extraction]", show_default=False)
    ] = None,
    layers_study: Annotated[
        bool, typer.Option("--layers-study", help="Which layer carries what: probes on each layer alone and without it.")
    ] = False,
    label_fractions: Annotated[
        str | None,
        typer.Option(help="Also with fewer labels: shares of the training images, as 0.01,0.1,1.", show_default=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Train a probe on the frozen encoder and write the prediction table of the test patients."""
    from radscale.probing import TASK_SETS, ProbeConfig, run_probing
    from radscale.probing.targets import describe_task

    def print_plan(plans: Any, excluded: Any) -> None:
        for plan in plans:
            for name in plan.tasks:
                console.print(describe_task(plan, name), highlight=False, soft_wrap=True)
        for row in excluded:
            console.print(f"[yellow]not evaluated[/] {row['task']}: {row['reason']}", highlight=False, soft_wrap=True)

    chosen = task or ["all"]
    tasks = chosen[0] if len(chosen) == 1 and chosen[0] in (*TASK_SETS, "all") else chosen
    given = {"tasks": tasks, "layer_study": layers_study or None, "label_fractions": _shares(label_fractions)}
    settings = make_settings(ProbeConfig, given, config)
    partial = new_folder(out, resumes=True)
    with show_progress("probe") as progress:
        facts = run_probing(
            settings,
            encoder=(model, encoder) if model else encoder,
            dataset=dataset,
            labels=labels_of(dataset, labels),
            out=partial / "out",
            work=partial / "work",
            progress=progress,
            on_plan=print_plan,
        )
    (partial / "out").rename(out)
    remove_folder(partial)
    for result in facts["task_sets"].values():
        for name, scores in result["tasks"].items():
            console.print(f"{name}: {scores}", highlight=False, soft_wrap=True)
        for study in ("layers", "layer_shares", "label_efficiency"):
            if study in result:
                print_rows(study.replace("_", " "), result[study])


def _shares(text: str | None) -> list[float] | None:
    """Numbers separated by commas."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--label-fractions {text}: not numbers separated by commas; write it as 0.01,0.1,1") from None


@app.command()
def segment(
    encoder: Annotated[Path, typer.Argument(help="Checkpoint or open weights: file or folder.")],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: NewOut,
    masks: Annotated[
        Path | None,
        typer.Option("--masks", help="Mask table, see `radscale masks`. With --heads it may be left out.", show_default=False),
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option(
            help="Train nothing: apply the heads of an earlier `segment` (its folder), write the masks that they find, and "
            "with --masks their metrics. The encoder must be the same.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="With --heads: images of test, validation, train or all. Heads know their own training images.")
    ] = "test",
    task: Annotated[list[str] | None, typer.Option(help="Tasks.  \\[default: all of the masks]", show_default=False)] = None,
    model: ModelOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    num_workers: Annotated[int, typer.Option(min=0, help="Threads that read images and measure masks.")] = 2,
    config: ConfigOption = None,
) -> None:
    """Train a linear head on the frozen encoder; write metrics per test image, their summary, overlays and the heads.

    Kill it at any moment and repeat the command: it goes on. With --heads, apply trained heads to other images.
    """
    from radscale.segmentation import SegmentationConfig, apply_heads, run_segmentation

    if masks is None and heads is None:
        raise InputError(
            "--masks: not given; give a mask table (see `radscale masks`) to train heads, or apply some with --heads"
        )
    if heads is None and split != "test":
        raise InputError(f"--split {split}: chooses images for --heads; a training is always measured on test images")
    if split not in ("test", "validation", "train", "all"):
        raise InputError(f"--split {split}: choose test, validation, train or all")
    settings = make_settings(SegmentationConfig, {"tasks": task}, config)
    partial = new_folder(out, resumes=heads is None)
    chosen = (model, encoder) if model else encoder
    with show_progress("segment") as progress:
        if heads is not None:
            facts = apply_heads(
                settings,
                heads=heads,
                encoder=chosen,
                dataset=dataset,
                masks=masks,
                split=split,
                out=partial / "out",
                device=device,
                num_workers=num_workers,
                progress=progress,
            )
        elif masks is not None:
            facts = run_segmentation(
                settings,
                encoder=chosen,
                dataset=dataset,
                masks=masks,
                out=partial / "out",
                work=partial / "work",
                device=device,
                num_workers=num_workers,
                progress=progress,
            )
    (partial / "out").rename(out)
    remove_folder(partial)
    if heads is not None:
        found = ", ".join(f"{name} in {counts['num_found']:,}" for name, counts in facts["tasks"].items())
        console.print(f"{facts['num_images']:,} images; found {found}: {out}/masks.parquet", highlight=False, soft_wrap=True)
    if "summary" in facts:
        _print_segmentation(facts)


def _print_segmentation(facts: dict[str, Any]) -> None:
    values = {(row["task"], row["rule"], row["metric"]): row for row in facts["summary"]}
    trained = (
        f"{facts['num_train']:,} training images, {facts['num_test']:,} test" if "num_train" in facts else facts["num_images"]
    )
    table = Table(title=f"{facts['arm']}: {trained} images")
    table.add_column("task")
    shown = (
        ("Hausdorff\npx", "any", "hausdorff_px"),
        ("present\nonly", "present", "hausdorff_px"),
        ("Dice\n", "any", "dice"),
        ("present\nonly", "present", "dice"),
        ("clDice\n", "any", "cldice"),
        ("both\ndrawn", "count", "both_drawn"),
        ("missed\n", "count", "missed"),
        ("false\nalarms", "count", "false_alarms"),
        ("both\nempty", "count", "both_empty"),
    )
    for title, _, _ in shown:
        table.add_column(title, justify="right")
    for task in (*facts["tasks"], "average"):
        cells = []
        for _, rule, metric in shown:
            row = values.get((task, rule, metric))
            digits = 3 if metric in ("dice", "cldice") else 1
            if row is None:
                cells.append("")
                continue
            # The headline's deviation only: the table must fit a page.
            known = row["seed_deviation"] == row["seed_deviation"] and rule == "any" and metric != "cldice"
            deviation = f" ± {row['seed_deviation']:.{digits}f}" if known else ""
            cells.append(f"{row['value']:.{digits}f}{deviation}")
        table.add_row(task, *cells)
    console.print(table)
    for row in facts.get("excluded_tasks", ()):
        console.print(f"[yellow]not evaluated[/] {row['task']}: {row['reason']}", highlight=False, soft_wrap=True)
    console.print(
        "Means over images with a mask on either side, or the reader's (present only); ± over seeds. All metrics: summary.csv",
        highlight=False,
        soft_wrap=True,
    )
