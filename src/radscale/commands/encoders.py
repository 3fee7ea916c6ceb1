"""Encoders: trained, converted, applied."""

import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from radscale.commands.shared import (
    ModelOption,
    NewOut,
    complain,
    console,
    labels_of,
    new_folder,
    print_facts,
    read_settings,
    remove_folder,
    show_progress,
    show_table,
)
from radscale.errors import InputError

app = typer.Typer()

EXIT_REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, run it again."""


@app.command()
def pretrain(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    objective: Annotated[str, typer.Option(help="clip, unicl or dinov2.")],
    out: NewOut,
    init: Annotated[
        Path | None, typer.Option(help="Weights to continue: checkpoint or open weights.", show_default=False)
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Instead: random weights of `architecture` in --config.")
    ] = False,
    model: ModelOption = None,
    size: Annotated[int | None, typer.Option(help="Images of the nested subset.  \\[default: all]", show_default=False)] = None,
    replicate: Annotated[int, typer.Option(min=0, help="Which random subset.")] = 0,
    epochs: Annotated[float | None, typer.Option(help="Budget in epochs of the subset.", show_default=False)] = None,
    gpu_seconds: Annotated[float | None, typer.Option(help="Budget in device seconds.", show_default=False)] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label table.  \\[default: DATASET/extraction]", show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="YAML with further settings; `preset: medimageinsight` or `preset: rad-dino` takes a whole recipe.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        list[Path] | None,
        typer.Option(
            "--recipe",
            help="dinov2: recipe files of DINOv2, ssl_default_config.yaml first, then yours. They bring the budget, too.",
            show_default=False,
        ),
    ] = None,
    recipe_gpus: Annotated[int, typer.Option(min=1, help="GPUs that --recipe is written for: it states the batch of one.")] = 1,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Devices of this machine.  \\[default: the launcher's, or 1]", show_default=False)
    ] = None,
    num_nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines.  \\[default: the launcher's, or 1]", show_default=False)
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(min=1, help="End before that much wall clock, state saved, exit code 75.", show_default=False),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard the state of an earlier session.")] = False,
) -> None:
    """Continue an encoder on a nested subset, or train one from scratch. Killed and run again, it goes on where it was.

    Exit codes: 0 done; 75 ended early by SIGTERM, SIGUSR1 or --max-seconds: run it again; 130 Ctrl-C; 2 one line says why.
    """
    from radscale.datasets import Dataset
    from radscale.experiment.build import build
    from radscale.experiment.design import merge, with_preset
    from radscale.pretraining import ComputeBudget, PretrainingConfig, run_pretraining
    from radscale.pretraining.dinov2_recipe import settings_from_dinov2_yaml
    from radscale.training import RunStopped, start_fabric

    if recipe and objective != "dinov2":
        raise InputError(f"--recipe is of DINOv2, the objective is {objective}; leave --recipe out, or use --objective dinov2")
    if (epochs is None) == (gpu_seconds is None) and (epochs or not recipe):
        raise InputError("give the budget: either --epochs or --gpu-seconds")
    if (init is None) == (not from_scratch):
        raise InputError("give the start: either --init WEIGHTS to continue, or --from-scratch for random weights")
    num_images = size or Dataset(dataset).num_train
    given: dict[str, Any] = {"objective": objective, "subset_size": size, "replicate": replicate}
    if epochs is not None:
        given["budget"] = ComputeBudget.samples_seen(epochs * num_images)
    elif gpu_seconds is not None:
        given["budget"] = ComputeBudget.gpu_seconds(gpu_seconds)
    written = with_preset(read_settings(config))
    if recipe:
        written = merge(settings_from_dinov2_yaml(*recipe, num_gpus=recipe_gpus), written)
    settings = build(
        PretrainingConfig, {**written, **{key: value for key, value in given.items() if value is not None}}, "settings"
    )
    partial = new_folder(out, resumes=True)
    fabric = start_fabric(precision=settings.precision, devices=devices, num_nodes=num_nodes)
    first = fabric.is_global_zero
    try:
        with show_progress("pretrain") if first else nullcontext() as progress:
            facts = run_pretraining(
                settings,
                dataset=dataset,
                labels=labels_of(dataset, labels),
                init=init,
                init_name=model,
                out=partial / "out",
                work=partial / "work",
                progress=progress,
                say=lambda line: console.print(f"[yellow]note[/] {escape(line)}", highlight=False, soft_wrap=True),
                fabric=fabric,
                earlier_state="discard" if restart else "resume",
                max_seconds=max_seconds,
            )
    except RunStopped as stopped:
        if first:
            line = f"stopped by {stopped.reason} after step {stopped.step:,} of {stopped.total_steps:,}"
            complain(f"{line}; its state is saved: run the same command again to go on", EXIT_REQUEUE)
        raise typer.Exit(128 + signal.SIGINT if stopped.by_the_user else EXIT_REQUEUE) from None
    if first:
        (partial / "out").rename(out)
        remove_folder(partial)
        print_facts(facts)


@app.command()
def convert(
    weights: Annotated[Path, typer.Argument(help="Open weights or a checkpoint: file or folder.")],
    to: Annotated[str, typer.Option("--to", help="radscale, huggingface, dinov2 or medimageinsight.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    model: ModelOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read it back; compare tensors and outputs.")] = False,
    image_size_px: Annotated[
        int | None, typer.Option(min=14, help="Input size in pixels, instead of the publisher's.", show_default=False)
    ] = None,
) -> None:
    """Open weights to our checkpoint, to a Hugging Face folder or to the publisher's layout, bit for bit."""
    from radscale.training import conversion
    from radscale.training.open_weights import load_dino_head, load_encoder

    encoder = load_encoder(str(weights)) if model is None else load_encoder(model, weights)
    if image_size_px is not None:
        encoder.preprocessing = replace(encoder.preprocessing, image_size_px=image_size_px)
    head = load_dino_head(weights)
    result = conversion.convert(encoder, head, to, out)
    console.print(f"wrote {out}: {', '.join(result.files)}", highlight=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    if verify:
        check = conversion.verify(encoder, head, to, out)
        text = "" if check.text_difference is None else f", text embeddings {check.text_difference:.1e}"
        console.print(
            f"verified: {check.num_tensors - check.num_different} of {check.num_tensors} tensors equal bit for bit, largest "
            f"relative difference of maps and image embedding {check.image_difference:.1e}{text}",
            highlight=False,
            soft_wrap=True,
        )
        if not check.ok:
            raise InputError(f"{out}: reads back otherwise than {weights}; do not use it")


@app.command()
def embed(
    encoder: Annotated[Path, typer.Argument(help="Checkpoint or open weights: file or folder.")],
    images: Annotated[
        Path, typer.Argument(help="Folder (PNG, JPEG, TIFF, DICOM), dataset, list of paths (.txt, .csv) or one image.")
    ],
    out: Annotated[Path, typer.Option("--out", help="New .parquet, .safetensors, or .csv (scores of --labels only).")],
    model: ModelOption = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="embedding, mean (of patches), patches, maps; several with commas.  \\[default: embedding; .csv: none]",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help='Zero-shot scores: "Pneumonia,Pleural Effusion", or a file, one a line.', show_default=False),
    ] = None,
    view: Annotated[str, typer.Option(help="In the label texts: auto, AP, PA, lateral, frontal, none.")] = "auto",
    prompt: Annotated[str | None, typer.Option(help="Label text.  \\[default: x-ray chest {view} {label}]")] = None,
    split: Annotated[str | None, typer.Option(help="Of a dataset: train, validation, test.", show_default=False)] = None,
    batch_size: Annotated[int, typer.Option(help="Images in one pass.")] = 32,
    num_workers: Annotated[
        int | None,
        typer.Option(min=0, help="Threads that read images.  \\[default: 2, GPU: up to 16]", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed or 16-mixed.")] = "32-true",
    dtype: Annotated[str, typer.Option(help="Of patches and maps on disk: float16 or float32.")] = "float16",
    parts: Annotated[bool, typer.Option("--parts", help="Make OUT a folder of parts instead of one file.")] = False,
) -> None:
    """Embeddings or patch features of many images, and zero-shot scores. Killed and run again, it goes on where it was.

    Images that cannot be used are listed in STEM.exclusions.parquet. docs/embedding.md tells how to read the files.
    """
    from radscale.probing import EmbeddingConfig, run_embedding
    from radscale.probing.zero_shot import read_labels

    wanted = features if features is not None else ("" if out.suffix == ".csv" and labels else "embedding")
    given = {
        "features": tuple(name.strip() for name in wanted.split(",") if name.strip()),
        "labels": tuple(read_labels(labels)) if labels is not None else (),
        "prompt": prompt,
        "view": view,
        "batch_size": batch_size,
        "precision": precision,
        "dtype": dtype,
    }
    config = EmbeddingConfig(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    with show_progress("embed") as progress:
        facts = run_embedding(
            config,
            encoder=(model, encoder) if model else encoder,
            images=images,
            out=out,
            split=split,
            parts=parts,
            device=device,
            num_workers=num_workers,
            progress=progress,
        )
    excluded = ", ".join(f"{count} {reason}" for reason, count in facts["excluded"].items())
    line = f"{facts['images']} images, {sum(facts['excluded'].values())} excluded"
    line += f" ({excluded}; see {facts['exclusions']})" if excluded else ""
    line += (
        f"; {facts['images_per_second']:.1f} images/s, the encoder waited for images {facts['waiting_share']:.0%} of the time"
    )
    line += f"; {facts['resumed']} were there from an earlier run" if facts["resumed"] else ""
    console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def similarity(
    encoders: Annotated[
        list[str],
        typer.Argument(
            metavar="ENCODER", help="One or more: \\[LABEL=]PATH\\[:MODEL], a checkpoint or open weights with their model."
        ),
    ],
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE", help="PNG, JPEG, TIFF or DICOM; or a folder of marked devices, to score them (docs/similarity.md)."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Image: picture to write (PNG, SVG or PDF).  \\[default: similarity.png]  Folder: new folder of scores.  "
            "\\[default: similarity]",
            show_default=False,
        ),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option(
            help="Query point: shares of the image from the left and from the top.  \\[default: 0.5,0.35]", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="medimageinsight, rad-dino or dinov2, for encoders without :MODEL.", show_default=False),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=28, help="Side of the encoders' input in pixels.  \\[default: theirs]", show_default=False)
    ] = None,
    maps: Annotated[Path | None, typer.Option("--maps", help="Also write the maps (.npz).", show_default=False)] = None,
    stretch: Annotated[bool, typer.Option("--stretch", help="Draw the order of a map's patches, not their values.")] = False,
    grid: Annotated[
        int | None,
        typer.Option(
            min=4,
            help="Folder: bring maps to this many rows and columns, to compare encoders.  \\[default: theirs]",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Folder: score the first images only.  \\[default: all]", show_default=False)
    ] = None,
) -> None:
    """Cosine similarity of every patch with one patch, in four layers (paper, Figure 1); or how far devices can be followed.

    An image gives the picture. A folder with masks and tips gives the curve-continuity score of every device in it:
    a phantom archive, RANZCR-CLiP, or devices.csv beside images and masks.
    """
    from radscale.experiment import patch_similarity

    if image.is_dir():
        if point is not None or maps is not None or stretch:
            raise InputError("--point, --maps and --stretch belong to one image; in a folder each device is queried at its tip")
        folder = out or Path("similarity")
        partial = new_folder(folder)
        images = patch_similarity.read_marked(image)[:limit]
        loaded = patch_similarity.load_encoders(encoders, model, size)
        with show_progress("similarity") as progress:
            scores, left_out = patch_similarity.score_devices(loaded, images, progress, grid=grid)
        table = patch_similarity.summarise_scores(scores)
        patch_similarity.save_scores(scores, table, partial)
        partial.rename(folder)
        show_table(table, None, None)
        for line in left_out:
            console.print(f"[yellow]left out[/] {escape(line)}", highlight=False, soft_wrap=True)
        console.print(f"wrote {folder}", highlight=False, soft_wrap=True)
        return
    if limit is not None or grid is not None:
        raise InputError("--limit and --grid belong to a folder of marked devices; give one, or leave them out")
    out = out or Path("similarity.png")
    place = _parse_point(point or "0.5,0.35")
    loaded = patch_similarity.load_encoders(encoders, model, size)
    patch_similarity.save_similarity(loaded, image, place, out, maps_file=maps, stretch=stretch)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def _parse_point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--point {text}: give two numbers, e.g. 0.5,0.3") from None
    if not (0 <= x < 1 and 0 <= y < 1):
        raise InputError(f"--point {text}: both must be from 0 to below 1")
    return y, x
