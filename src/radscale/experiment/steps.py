"""Step functions of a study: each hands its settings to one stage and returns facts for its record.

All have the runner's signature `(config, inputs, out, context) -> dict`. Imports of heavy packages stay inside, so that
planning a study loads none of them.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from radscale.errors import InputError
from radscale.execution import StepContext
from radscale.experiment.build import build

PUBLIC_KEY = b"radscale: data that anybody may link back"
Config = dict[str, Any]
Inputs = dict[str, Path]
Result = dict[str, Any]


def make_phantom(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    from radscale.phantom import PhantomConfig, generate_archive

    settings = build(PhantomConfig, config, "source.settings")
    return generate_archive(settings, out, num_workers=context.num_workers, progress=context.progress)


def ingest_dataset(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    from radscale.datasets import IngestConfig, ingest, load_or_create_secret

    public = config.get("public", False)
    settings = build(IngestConfig, {key: value for key, value in config.items() if key != "public"}, "source.settings")
    # A study's secret lies beside it, readable by its owner only, and never inside a dataset. Data that anybody may link
    # back (phantoms, public sets) take a published key, so that everybody gets the same splits.
    secret = PUBLIC_KEY if public else load_or_create_secret(Path(context.options["secret"]))
    counts = ingest(
        settings,
        inputs["source"],
        out,
        secret=secret,
        num_workers=context.num_workers,
        work=context.work / "ingest",
        progress=context.progress,
    )
    _require_train(out, context)
    return counts


def _require_train(dataset: Path, context: StepContext) -> None:
    """Stop before hours of training if the largest subset does not fit the data."""
    from radscale.datasets import Dataset

    needed = context.options.get("needed_train", 0)
    num_train = Dataset(dataset).num_train
    if num_train < needed:
        raise InputError(
            f"subset_sizes: {needed:,} images are more than the {num_train:,} training images of this dataset; "
            "take smaller sizes or a larger training share"
        )


def link_dataset(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    """Give a dataset that stands elsewhere a place in the study, without copying its images."""
    from radscale.datasets import Dataset

    source = Path(context.options["dataset"])
    dataset = Dataset(source)
    for item in sorted(source.iterdir()):
        (out / item.name).symlink_to(item.resolve())
    _require_train(out, context)
    return {"num_images": len(dataset), "num_train": dataset.num_train}


def extract_labels(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    from radscale.extraction import run_extraction

    return run_extraction(inputs["dataset"], out, progress=context.progress)


def measure_agreement(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    from radscale.datasets import read_label_table
    from radscale.extraction import agreement

    rows = agreement(read_label_table(inputs["labels"]), read_label_table(inputs["dataset"]))
    write_csv(rows, out / "agreement.csv")
    return {"num_tasks": len(rows)}


def import_open_weights(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    from radscale.training.checkpointing import save_checkpoint
    from radscale.training.open_weights import load_dino_head, load_encoder

    weights = inputs["weights"]
    encoder = load_encoder(str(weights)) if config["model"] == "checkpoint" else load_encoder(config["model"], weights)
    if config["image_size_px"] is not None:
        encoder.preprocessing = replace(encoder.preprocessing, image_size_px=config["image_size_px"])
    head = load_dino_head(weights) if weights.is_dir() else None
    save_checkpoint(out, encoder, head=head, info={"objective": "open_weights", "model": config["model"]})
    return {"has_dino_head": head is not None}


def pretrain_open_weights(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    """A model trained from scratch on another hospital's data: it plays the open weights."""
    from radscale.datasets import Dataset
    from radscale.pretraining import ComputeBudget, PretrainingConfig, run_pretraining

    num_train = Dataset(inputs["dataset"]).num_train
    budget = ComputeBudget.samples_seen(round(config["epochs"] * num_train))
    settings = build(
        PretrainingConfig,
        {**config["pretraining"], "architecture": config["architecture"], "budget": budget},
        "open_weights.settings",
    )
    return run_pretraining(
        settings,
        dataset=inputs["dataset"],
        labels=inputs["labels"],
        init=None,
        out=out,
        work=context.work,
        progress=context.progress,
        say=_quiet,
        earlier_state="resume_or_restart",
    )


def _quiet(line: str) -> None:
    """Alarms of a run stand in its record and metrics.jsonl; a study's screen shows steps."""


def measure_cost(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    """FLOPs of one training image of an arm and of the reference arm: what equal compute is counted in."""
    from radscale.pretraining import ComputeBudget, PretrainingConfig, training_flops_per_sample
    from radscale.training.open_weights import load_encoder

    result = {}
    for role in ("arm", "reference"):
        one = ComputeBudget.samples_seen(1)
        settings = build(PretrainingConfig, {**config[role], "budget": one}, "pretraining")
        result[f"{role}_flops_per_image"] = training_flops_per_sample(settings, load_encoder(str(inputs[role])))
    (out / "budget.json").write_text(json.dumps(result, indent=1))
    return result


def budget_amount(budget: Config, size: int, costs: Config) -> float:
    """The compute of one run in the budget's unit (paper, section 5: proportional to the subset, equal for all arms).

    Args:
        budget: unit and one of epochs, per_image, total.
        size: images in the subset.
        costs: `arm_flops_per_image` and `reference_flops_per_image`.
    """
    if "total" in budget:
        return float(budget["total"])
    if "per_image" in budget:
        return float(budget["per_image"]) * size
    images = float(budget["epochs"]) * size
    return images * costs["reference_flops_per_image"] if budget["unit"] == "flops" else images


def continue_pretraining(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    from radscale.pretraining import ComputeBudget, PretrainingConfig, run_pretraining

    costs = json.loads((inputs["budget"] / "budget.json").read_text())
    amount = budget_amount(config["budget"], config["pretraining"]["subset_size"], costs)
    budget = getattr(ComputeBudget, config["budget"]["unit"])(amount)
    settings = build(PretrainingConfig, {**config["pretraining"], "budget": budget}, "pretraining")
    return run_pretraining(
        settings,
        dataset=inputs["dataset"],
        labels=inputs["labels"],
        init=inputs["init"],
        out=out,
        work=context.work,
        progress=context.progress,
        say=_quiet,
        earlier_state="resume_or_restart",
    )


def probe_encoder(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    """Probe one encoder on every dataset; `out/<evaluation>.parquet` are its prediction tables."""
    from radscale.probing import ProbeConfig, run_probing

    results: Result = {"excluded_tasks": [], "evaluations": {}}
    for plan in config["plans"]:
        name = plan["dataset"]
        columns = {key: config[key] for key in ("arm", "objective", "subset_size", "replicate")}
        settings = build(ProbeConfig, {**plan["probe"], **columns, "task_sets": plan["task_sets"]}, "probe")
        part = out / f"dataset={name}"
        result = run_probing(
            settings,
            encoder=inputs["encoder"],
            dataset=inputs[f"dataset:{name}"],
            labels=inputs[f"labels:{name}"],
            out=part,
            work=context.work / name,
            progress=context.progress,
        )
        for evaluation in plan["task_sets"]:
            shutil.move(part / f"predictions.{evaluation}.parquet", out / f"{evaluation}.parquet")
        results["evaluations"] |= dict.fromkeys(plan["task_sets"], result)
        results["excluded_tasks"] += [{"evaluation": row.pop("task_set"), **row} for row in result["excluded_tasks"]]
    return results


def make_masks(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    """`out/masks.parquet`: the mask table of a dataset, converted or, where it is one already, checked and copied."""
    from radscale.datasets import Dataset, load_or_create_secret
    from radscale.datasets.mask_sources import convert_masks
    from radscale.datasets.masks import MaskTable

    dataset, source = Dataset(inputs["dataset"]), inputs["source"]
    if source.is_file():
        table = MaskTable(source, dataset)
        shutil.copyfile(source, out / "masks.parquet")
        return {"tasks": table.tasks}
    secret = PUBLIC_KEY if config["public"] else load_or_create_secret(Path(context.options["secret"]))
    return convert_masks(
        source,
        dataset,
        out / "masks.parquet",
        secret=secret,
        line_width_share=config["line_width"],
        skip_outside=config["skip_outside"],
        progress=context.progress,
    )


def segment_images(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    """Segment with one encoder; `out/<segmentation>.parquet` are the measurements of its test images."""
    from radscale.segmentation import SegmentationConfig, run_segmentation

    results: Result = {"excluded_tasks": [], "segmentations": {}}
    for name, plan in config["plans"].items():
        columns = {key: config[key] for key in ("arm", "objective", "subset_size", "replicate")}
        part = out / f"segmentation={name}"
        result = run_segmentation(
            build(SegmentationConfig, {**plan, **columns}, "segment"),
            encoder=inputs["encoder"],
            dataset=inputs[f"dataset:{name}"],
            masks=inputs[f"masks:{name}"] / "masks.parquet",
            out=part,
            work=context.work / name,
            progress=context.progress,
        )
        shutil.move(part / "segmentation.parquet", out / f"{name}.parquet")
        results["excluded_tasks"] += [{"evaluation": name, **row} for row in result.pop("excluded_tasks")]
        del result["summary"]  # stands in summary.csv
        results["segmentations"][name] = result
    return results


def analyse(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    from radscale.analysis.summary import summarise

    probes = [path for name, path in inputs.items() if name.startswith("probing/")]
    segmented = [path for name, path in inputs.items() if name.startswith("segmentation/")]
    excluded: dict[tuple[str, str], dict[str, str]] = {}
    for path in (*probes, *segmented):
        for row in json.loads((path / "record.json").read_text())["result"]["excluded_tasks"]:
            excluded[row["evaluation"], row["task"]] = row
    summarise(
        {name: [probe / f"{name}.parquet" for probe in probes] for name in config["evaluations"]},
        config["arms"],
        {name: inputs[f"dataset:{dataset}"] for name, dataset in config["evaluations"].items()},
        out,
        segmentations={name: [path / f"{name}.parquet" for path in segmented] for name in config["segmentations"]},
        num_bootstrap=config["num_bootstrap"],
        seed=config["seed"],
        excluded_tasks=list(excluded.values()),
        progress=context.progress,
    )
    return {"num_encoders": len(probes)}


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Rows with the same keys as a CSV file."""
    import csv

    if not rows:
        raise InputError(f"{path.name}: no rows to write")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw_contact_sheet(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    from radscale.datasets import Dataset
    from radscale.experiment.pictures import write_contact_sheet

    dataset = Dataset(inputs["dataset"])
    write_contact_sheet(dataset, out, title=config["title"], num_images=config["num_images"], seed=config["seed"])
    return {}


def draw_similarity(config: Config, inputs: Inputs, out: Path, context: StepContext) -> Result:
    """Similarity maps from a device's tip where the truth is known, else from a point that the settings name."""
    import numpy as np

    from radscale.datasets import Dataset
    from radscale.experiment.pictures import device_tips, fixed_points, write_similarity
    from radscale.training.open_weights import load_encoder

    dataset = Dataset(inputs["dataset:"])
    encoders = {label: load_encoder(str(inputs[arm])) for arm, label in config["arms"].items() if arm in inputs}
    rng = np.random.default_rng(config["seed"])
    if "archive:" in inputs:
        chosen = device_tips(inputs["archive:"], config["num_images"], rng)
    else:
        chosen = fixed_points(dataset, tuple(config["point"]), config["num_images"], rng)
    for index, (image, point, caption) in enumerate(chosen):
        context.progress(index, len(chosen), "similarity maps")
        write_similarity(encoders, image, point, out / f"similarity{index}", title=f"Image {index + 1}", caption=caption)
    return {"num_images": len(chosen)}
