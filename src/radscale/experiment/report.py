"""Collect what a finished study has on disk and hand it to the answer page."""

import csv
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radscale import __version__
from radscale.experiment.settings import Segmentation
from radscale.html_report import ReportInputs, write_report

if TYPE_CHECKING:
    from radscale.experiment.study import Study

RUN_COLUMNS = (
    "stage",
    "artifact",
    "arm",
    "subset_size",
    "replicate",
    "seconds",
    "samples_seen",
    "steps",
    "target",
    "achieved",
    "unit",
    "images_per_second",
    "peak_memory_gb",
)


LEFT_OVER = ".report-"


def write_study_report(study: "Study") -> Path:
    """Write `STORE/report/report.html` with its figures and tables; an older report is replaced whole."""
    root = study.store.root
    with study.store.lock("report", wait=True), tempfile.TemporaryDirectory(dir=root, prefix=LEFT_OVER) as temporary:
        for left_over in root.glob(f"{LEFT_OVER}*"):
            # A killed run could not remove its own.
            if left_over != Path(temporary):
                shutil.rmtree(left_over, ignore_errors=True)
        folder = Path(temporary)
        inputs = collect_inputs(study, folder)
        written = write_report(inputs, folder / "report")
        target = root / "report"
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(folder / "report", target)
    return target / written.name


def collect_inputs(study: "Study", work: Path) -> ReportInputs:
    """Everything that the page shows, from records and tables; nothing is computed from images here."""
    settings, store, design = study.settings, study.store, study.design
    analysis = store.record(design.analysis)
    assert analysis is not None
    return ReportInputs(
        title=settings.title,
        description=settings.description,
        is_phantom=settings.is_phantom,
        created=analysis.provenance["created"],
        radscale_version=__version__,
        analysis=store.path(design.analysis),
        arms=design.arm_facts,
        evaluations=[_evaluation_facts(study, name) for name in (*settings.evaluations, *settings.segmentations)],
        agreement=_agreement(study, work / "agreement.csv"),
        runs=_runs(study, work / "runs.csv"),
        dataset_facts=[_dataset_facts(study, name) for name in settings.datasets],
        gallery=_gallery(study),
        similarity=_similarity(study),
        excluded=_exclusions(study),
        budget_text=budget_text(study),
        warnings=warnings(study),
    )


def _evaluation_facts(study: "Study", name: str) -> dict[str, Any]:
    settings = study.settings
    evaluation = settings.evaluations.get(name) or settings.segmentations[name]
    facts = {
        "name": name,
        "label": evaluation.label,
        "tasks": task_names(study, name),
        "headline": evaluation.headline,
        "note": evaluation.note,
        "held_out": evaluation.dataset != settings.pretraining_dataset,
    }
    if isinstance(evaluation, Segmentation):
        return {**facts, "kind": "segmentation", "overlays": _overlays(study, name)}
    return {**facts, "task_set": evaluation.tasks if isinstance(evaluation.tasks, str) else None}


def _overlays(study: "Study", segmentation: str) -> list[dict[str, Any]]:
    """Sheets of cases, where the study drew them: of the open weights and of each arm's largest subset."""
    entries = []
    for run in study.design.runs:
        if run.segmentation is None or run.replicate or run.subset_size not in (0, study.settings.subset_sizes[-1]):
            continue
        folder = study.store.path(run.segmentation) / f"segmentation={segmentation}" / "overlays"
        label = study.design.arm_facts[run.arm]["label"]
        model = f"{label}, {run.subset_size:,} images" if run.subset_size else f"{label}, open weights"
        entries += [{"task": path.stem, "model": model, "image": path} for path in sorted(folder.glob("*.png"))]
    return sorted(entries, key=lambda entry: str(entry["task"]))


def task_names(study: "Study", evaluation: str) -> dict[str, str]:
    """Tasks that were evaluated, with the names that people know them by."""
    from radscale.probing import TASK_SETS, display_name

    path = study.store.path(study.design.analysis) / "results.csv"
    with path.open(encoding="utf-8", newline="") as file:
        found = {row["task"]: None for row in csv.DictReader(file) if row["evaluation"] == evaluation}
    # In the order of the task set, which is the paper's, or in which the study names them.
    evaluated = study.settings.evaluations.get(evaluation) or study.settings.segmentations[evaluation]
    wanted = TASK_SETS.get(evaluated.tasks, ()) if isinstance(evaluated.tasks, str) else evaluated.tasks or ()
    ordered = [*(task for task in wanted if task in found), *found]
    return {task: display_name(task) for task in dict.fromkeys(ordered) if task != "average"}


def _agreement(study: "Study", path: Path) -> Path | None:
    rows: list[dict[str, str]] = []
    for name, step in study.design.agreement.items():
        source = study.store.path(step) / "agreement.csv"
        if source.exists():
            with source.open(encoding="utf-8", newline="") as file:
                rows += [{"source": name, **row} for row in csv.DictReader(file)]
    return _write(rows, path, list(rows[0])) if rows else None


def _runs(study: "Study", path: Path) -> Path:
    encoders = {run.encoder.name: run for run in study.design.runs}
    rows = []
    for step in study.steps:
        record = study.store.record(step)
        if record is None:
            continue
        run = encoders.get(step.name)
        row: dict[str, Any] = {key: record.result.get(key, "") for key in RUN_COLUMNS}
        row |= {"stage": step.stage, "artifact": step.name, "seconds": record.seconds}
        row["peak_memory_gb"] = record.peak_memory_gb
        if run is not None:
            row |= {"arm": run.arm, "subset_size": run.subset_size, "replicate": run.replicate}
        rows.append(row)
    return _write(rows, path, list(RUN_COLUMNS))


def _write(rows: list[dict[str, Any]], path: Path, columns: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _dataset_facts(study: "Study", name: str) -> dict[str, Any]:
    from radscale.datasets import Dataset

    manifest = Dataset(study.store.path(study.design.datasets[name])).manifest
    splits = Counter(manifest["split"].to_pylist())
    views = Counter(manifest["view"].to_pylist())
    ages = [age for age in manifest["age_years"].to_pylist() if age is not None]
    rows = {
        "images": f"{manifest.num_rows:,}",
        "patients": f"{len(set(manifest['patient_id'].to_pylist())):,}",
        "studies": f"{len(set(manifest['study_id'].to_pylist())):,}",
        "train / validation / test images": " / ".join(f"{splits[s]:,}" for s in ("train", "validation", "test")),
        "frontal / lateral / unknown view": " / ".join(f"{views[v]:,}" for v in ("frontal", "lateral", "unknown")),
        "shorter side": f"{study.settings.datasets[name].image_size_px or study.settings.image_size_px} px",
    }
    if ages:
        rows["median age"] = f"{sorted(ages)[len(ages) // 2]} years"
    labels = {"sex": "sex", "ethnicity": "ethnicity", "care_setting": "care setting", "manufacturer": "scanner manufacturer"}
    for column, label in labels.items():
        values = manifest[column].to_pylist() if column in manifest.column_names else []
        counts = Counter(value for value in values if value)
        if counts:
            known = sum(counts.values())
            rows[label] = ", ".join(f"{value} {100 * count / known:.0f} %" for value, count in counts.most_common(6))
    role = "pretraining" if name == study.settings.pretraining_dataset else "see evaluations and open weights"
    return {"name": f"{name} ({role})", "rows": rows}


def _gallery(study: "Study") -> list[dict[str, Any]]:
    entries = []
    for step in study.design.pictures:
        path = study.store.path(step)
        for image in sorted(path.glob("sheet*.png")):
            facts = json.loads(image.with_suffix(".json").read_text(encoding="utf-8"))
            entries.append({"title": facts["title"], "caption": facts["caption"], "image": image})
    return entries


def _similarity(study: "Study") -> list[dict[str, Any]]:
    entries = []
    for step in study.design.pictures:
        path = study.store.path(step)
        for facts_file in sorted(path.glob("similarity*.json")):
            facts = json.loads(facts_file.read_text(encoding="utf-8"))
            stem = facts_file.with_suffix("")
            entries.append(
                {
                    "title": facts["title"],
                    "caption": facts["caption"],
                    "image": stem.with_suffix(".png"),
                    "point": tuple(facts["point"]),
                    "maps": stem.with_suffix(".npz"),
                }
            )
    return entries


def _exclusions(study: "Study") -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows = []
    for name, step in study.design.datasets.items():
        table = pq.read_table(study.store.path(step) / "exclusions.parquet")
        for reason, count in sorted(Counter(table["reason"].to_pylist()).items()):
            rows.append({"dataset": name, "reason": reason, "count": count})
    return rows


def budget_text(study: "Study") -> str:
    """The budget in a sentence."""
    budget = study.settings.budget
    unit = {"flops": "FLOPs", "samples_seen": "images seen", "gpu_seconds": "seconds of accelerator time"}[budget.unit]
    if budget.epochs is not None:
        reference = study.settings.arms[str(budget.reference)].label
        return (
            f"At each subset size every arm gets the compute of {budget.epochs:g} epochs of {reference}, counted in "
            f"{unit}; cheaper objectives see more images for it."
        )
    amount = f"{budget.per_image:g} per image of the subset" if budget.per_image else f"{budget.total:g} at every size"
    return f"Every arm gets the same compute: {amount}, in {unit}."


def warnings(study: "Study") -> list[str]:
    """What a reader must know before trusting the page."""
    found = []
    settings = study.settings
    if any(dataset.labels == "rules" for dataset in settings.datasets.values()):
        found.append("Labels were extracted from reports by rules, without a language model; see the label agreement.")
    small = [size for size in settings.subset_sizes if settings.num_replicates(size) == 1]
    if small:
        sizes = ", ".join(f"{size:,}" for size in small)
        found.append(f"One encoder per arm was trained at size {sizes}: its spread over subsets is not known there.")
    states = study.states()
    failed = {name: state.reason for name, state in states.items() if state.status == "failed"}
    for name, reason in failed.items():
        found.append(f"{name} failed and is not in the numbers: {reason}.")
    allowed = ("done", "failed", "incomplete") if failed else ("done",)
    unfinished = [name for name, state in states.items() if state.status not in allowed]
    if unfinished:
        found.append(f"{len(unfinished)} steps of the experiment are not done, the first is {unfinished[0]}.")
    return found
