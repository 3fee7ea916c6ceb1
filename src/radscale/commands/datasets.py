"""Datasets: made, checked, described, cleaned, labelled."""

from pathlib import Path
from typing import Annotated

import typer

from radscale.commands.shared import (
    ConfigOption,
    WorkersOption,
    console,
    make_settings,
    new_folder,
    print_facts,
    print_rows,
    show_progress,
)
from radscale.errors import InputError

app = typer.Typer()


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="New folder for the archive.")],
    hospital: Annotated[str, typer.Option(help="own or public: other scanners, people and habits.")] = "own",
    patients: Annotated[int, typer.Option(min=1, help="Number of patients.")] = 100,
    seed: Annotated[int, typer.Option(help="Decides everything.")] = 0,
    workers: WorkersOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a synthetic hospital: DICOM files, reports, and the truth beside them."""
    from radscale.experiment.study import default_workers
    from radscale.phantom import PhantomConfig, generate_archive

    settings = make_settings(PhantomConfig, {"hospital": hospital, "num_patients": patients, "seed": seed}, config)
    partial = new_folder(out)
    with show_progress("phantom") as progress:
        facts = generate_archive(settings, partial, num_workers=workers or default_workers(), progress=progress)
    partial.rename(out)
    print_facts(facts)


@app.command()
def ingest(
    archive: Annotated[
        str,
        typer.Argument(
            help="Folder, tar, zip or DICOMDIR of DICOM files with reports.csv; https://... of a PACS (DICOMweb); or a folder "
            "of images with a table."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder; with --add the dataset.")],
    kind: Annotated[str | None, typer.Option(help="dicom or images.  \\[default: dicom]", show_default=False)] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="A published data set as it comes: vindr-cxr, vindr-cxr-kaggle, ranzcr-clip, nih, chexpert, mimic-cxr-jpg, "
            "padchest, openi, siim, or auto.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Shorter side in pixels.")] = 518,
    table: Annotated[str | None, typer.Option(help="images: the table with one row per image.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="images: COLUMN=binary|categorical|multiple.", show_default=False)
    ] = None,
    reports: Annotated[
        str | None,
        typer.Option(
            help="dicom: reports below ARCHIVE: .csv, .parquet, .jsonl, or a folder of .txt and .hl7 files.  "
            "\\[default: reports.csv; of a PACS none]",
            show_default=False,
        ),
    ] = None,
    stratify_by: Annotated[
        str | None,
        typer.Option(
            help="Subsets hold the same shares of these, with commas: sex, view, age, manufacturer.  \\[default: none]",
            show_default=False,
        ),
    ] = None,
    modalities: Annotated[
        str | None, typer.Option(help="PACS: of the series to read.  \\[default: CR,DX]", show_default=False)
    ] = None,
    dates: Annotated[
        str | None, typer.Option(help="PACS: of the studies to read, YYYYMMDD-YYYYMMDD.  \\[default: all]", show_default=False)
    ] = None,
    add: Annotated[bool, typer.Option("--add", help="Add the files that the dataset does not have yet.")] = False,
    part: Annotated[
        str | None,
        typer.Option(
            help="Decode only this share of the files, such as 3/16, beside other jobs; then the same command without it.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[str, typer.Option(help="local, or ray: decode on the cluster of RAY_ADDRESS.")] = "local",
    require_review: Annotated[
        bool, typer.Option("--require-review", help="Not to be used before a person has looked at it: see `radscale review`.")
    ] = False,
    secret: Annotated[
        Path | None, typer.Option(help="Key of the pseudonyms.  \\[default: OUT.secret]", show_default=False)
    ] = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
) -> None:
    """Turn an archive into a de-identified dataset: manifest, shards, splits, nested subsets. Loses nothing silently.

    Kill it at any moment and run it again: it goes on where it was. Every file that is not in the dataset is a row of
    exclusions.parquet with its reason. Text in the pixels, and heads in lateral views, are painted over. A PACS asks for
    RADSCALE_PACS_USER and RADSCALE_PACS_PASSWORD, or RADSCALE_PACS_TOKEN, of the environment, or ~/.netrc.
    """
    from radscale.datasets import IngestConfig, Part, load_or_create_secret
    from radscale.datasets import ingest as run_ingest
    from radscale.experiment.study import default_workers

    pairs = dict(item.partition("=")[::2] for item in labels or [])
    given = {
        "kind": kind or ("dicom" if layout is None else "images"),
        "layout": layout,
        "image_size_px": size,
        "table": table,
        "labels": pairs or None,
        "reports": reports,
        "stratify_by": [name.strip() for name in stratify_by.split(",")] if stratify_by is not None else None,
        "pacs_modalities": modalities,
        "pacs_dates": dates,
        "require_review": require_review or None,
    }
    settings = make_settings(IngestConfig, given, config)
    key_file = secret or out.with_name(out.name + ".secret")
    if add and not key_file.is_file():
        raise InputError(f"{key_file}: no such key; give the one that {out} was made with as --secret")
    if backend not in ("local", "ray"):
        raise InputError(f"--backend {backend}: give local or ray")
    share = Part.parse(part) if part is not None else None
    key = load_or_create_secret(key_file)
    num_workers = workers or (0 if backend == "ray" else default_workers())
    with show_progress("ingest") as progress:
        facts = run_ingest(
            settings,
            archive,
            out,
            secret=key,
            num_workers=num_workers,
            add=add,
            part=share,
            backend=backend,  # type: ignore[arg-type]
            progress=progress,
        )
    print_facts(facts)


@app.command()
def verify(dataset: Annotated[Path, typer.Argument(help="Dataset folder.")]) -> None:
    """Check a dataset: bytes against their hashes, splits by patient, nesting, and that inputs add up."""
    from radscale.datasets import verify_dataset

    with show_progress("verify") as progress:
        problems = verify_dataset(dataset, progress)
    for problem in problems:
        console.print(f"[red]{problem}[/]", highlight=False)
    if problems:
        raise typer.Exit(1)
    console.print("everything holds", highlight=False)


@app.command()
def card(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option("--out", help="New folder for card.html, card.md and croissant.json.")],
    licence: Annotated[str, typer.Option(help="Of the dataset, as it shall stand on the card.")] = "",
    images: Annotated[
        int,
        typer.Option(min=0, help="So many random images of each view. They are patients': look before you share."),
    ] = 0,
) -> None:
    """What is in a dataset, how it came about, and how it was de-identified: a card to show, and Croissant metadata."""
    import json

    from radscale.datasets import Dataset
    from radscale.datasets.card import contact_sheet_rows, describe_dataset
    from radscale.datasets.card_page import card_html, card_markdown
    from radscale.datasets.croissant import croissant

    partial = new_folder(out)
    found, data = describe_dataset(dataset, licence=licence), Dataset(dataset)
    pictures = {view: data.read_images(rows) for view, rows in contact_sheet_rows(data, images).items()}
    partial.mkdir(parents=True)
    (partial / "card.html").write_text(card_html(found, pictures), encoding="utf-8")
    (partial / "card.md").write_text(card_markdown(found), encoding="utf-8")
    (partial / "croissant.json").write_text(json.dumps(croissant(dataset, found), indent=1) + "\n", encoding="utf-8")
    partial.rename(out)
    console.print(f"{out}/card.html, card.md, croissant.json", highlight=False, soft_wrap=True)


@app.command()
def outliers(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder for quality.parquet and outliers.html.", show_default=False)
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="Look among these (.parquet of `radscale embed`) instead of pixels.", show_default=False),
    ] = None,
    quality: Annotated[
        Path | None, typer.Option(help="Set aside by this quality.parquet, made before.", show_default=False)
    ] = None,
    set_aside_above: Annotated[
        float | None, typer.Option(help="Take images with a higher score out of the dataset.", show_default=False)
    ] = None,
    set_aside_duplicates: Annotated[
        bool, typer.Option("--set-aside-duplicates", help="Take out all of a group of near duplicates but its first image.")
    ] = False,
    put_back: Annotated[bool, typer.Option("--put-back", help="Take back what was set aside as such.")] = False,
    config: ConfigOption = None,
) -> None:
    """Which images look unlike all others, and which are one image under two names; take them out, or back.

    Look at outliers.html first: it shows what a threshold takes out. Shards are not rewritten, and nothing is lost.
    """
    from radscale.datasets import outliers as run

    given = sum([out is not None, quality is not None, put_back])
    if given != 1:
        raise InputError("give one of --out (to assess), --quality (to set aside), --put-back")
    if quality is None and (set_aside_above is not None or set_aside_duplicates):
        raise InputError("--set-aside-above and --set-aside-duplicates need --quality FILE: assess first, look, then decide")
    if put_back:
        from radscale.datasets.set_aside import put_back as take_back

        print_facts(take_back(dataset, run.REASONS))
    elif quality is not None:
        print_facts(run.set_aside_by(dataset, quality, above=set_aside_above, duplicates=set_aside_duplicates))
    else:
        assert out is not None
        partial = new_folder(out)
        settings = make_settings(run.QualityConfig, {}, config)
        with show_progress("outliers") as progress:
            facts = run.find_outliers(settings, dataset, partial, embeddings=embeddings, progress=progress)
        partial.rename(out)
        print_facts(facts)
        console.print(f"look at it: {out}/outliers.html", highlight=False, soft_wrap=True)


@app.command()
def select(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be set aside, by manufacturer.")] = False,
    put_back: Annotated[bool, typer.Option("--put-back", help="Take back every selection.")] = False,
) -> None:
    """Keep one image of each view per visit, as the paper does: originals with complete tags first; the others are set aside.

    A preference and never a filter: every visit keeps an image of each view that it had. Repeat it after --add: what was chosen
    before stays. Shards are not rewritten, and nothing is lost.
    """
    from radscale.datasets import selection

    if put_back:
        if dry_run:
            raise InputError("give one of --dry-run and --put-back")
        print_facts(selection.deselect(dataset))
        return
    facts = selection.select(dataset, dry_run=dry_run)
    rows = facts.pop("manufacturers")
    print_facts(facts)
    if rows:
        print_rows("images of a known view, by manufacturer", rows)


@app.command()
def review(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="New folder for review.html.", show_default=False)] = None,
    images: Annotated[int, typer.Option(min=1, help="Drawn at random; a fifth as many of each further kind on top.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    decisions: Annotated[
        Path | None, typer.Option(help="What the reviewer decided: decisions.csv of that page.", show_default=False)
    ] = None,
    reviewer: Annotated[str, typer.Option(help="Who it was, for the record.")] = "",
) -> None:
    """Look for what still shows who a patient is: a sheet of images first, then the reviewer's decisions.

    Marked images are set aside. What was seen bounds what was not: of 300 images without a mark, at most 1 % of all show it.
    """
    from radscale.datasets.review import record_review, write_review

    if (out is None) == (decisions is None):
        raise InputError("give one of --out (to make the sheet) and --decisions (to take over what was decided)")
    if decisions is not None:
        print_facts(record_review(dataset, decisions, reviewer=reviewer))
        return
    assert out is not None
    partial = new_folder(out)
    facts = write_review(dataset, partial, num_images=images, seed=seed)
    partial.rename(out)
    print_facts(facts)
    console.print(f"look at it: {out}/review.html", highlight=False, soft_wrap=True)


@app.command()
def extract(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path | None, typer.Option(help="\\[default: DATASET/extraction]", show_default=False)] = None,
) -> None:
    """Reports to findings, lines and tubes, by rules."""
    from radscale.extraction import run_extraction

    with show_progress("extract") as progress:
        facts = run_extraction(dataset, out or dataset / "extraction", progress=progress)
    print_facts(facts)


@app.command()
def masks(
    source: Annotated[
        Path, typer.Argument(help="RANZCR-CLiP, a folder with devices.csv and mask files, or a phantom archive.")
    ],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, made from the same source.")],
    out: Annotated[Path, typer.Option("--out", help="Mask table: a new .parquet file.")],
    secret: Annotated[
        Path | None, typer.Option(help="Key of the dataset's pseudonyms.  \\[default: DATASET.secret]", show_default=False)
    ] = None,
    line_width: Annotated[
        float, typer.Option(help="Width of drawn lines as a share of the image's shorter side (0.01: 5 of 518 px).")
    ] = 0.01,
    skip_outside: Annotated[bool, typer.Option("--skip-outside", help="Leave out lines that leave their image.")] = False,
) -> None:
    """Turn marked lines, tubes or regions into the mask table of a dataset, for `segment`."""
    from radscale.datasets import Dataset, load_or_create_secret
    from radscale.datasets.mask_sources import convert_masks

    if out.exists():
        raise InputError(f"{out}: exists; choose a new file")
    if not out.parent.is_dir():
        raise InputError(f"{out}: {out.parent} is no folder; make it first")
    key = secret or dataset.with_name(dataset.name + ".secret")
    if not key.exists():
        raise InputError(f"{key}: no such key; give the one that the dataset was made with: --secret FILE")
    with show_progress("masks") as progress:
        facts = convert_masks(
            source,
            Dataset(dataset),
            out,
            secret=load_or_create_secret(key),
            line_width_share=line_width,
            skip_outside=skip_outside,
            progress=progress,
        )
    print_facts(facts)
