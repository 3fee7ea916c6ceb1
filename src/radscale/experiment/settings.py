"""What an experiment file may say: strict models, and messages that name file, line, key and what is allowed."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from radscale.errors import InputError
from radscale.experiment.yaml_lines import LineIndex, Location, parse_yaml, read_yaml

OWN_WORDS = ("replicates", "labels", "label_tasks")
"""Mappings from the user's own sizes, columns and tasks: those of an extended file mean nothing in another study."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)


class PhantomSource(Strict):
    """A synthetic hospital (`radscale phantom`)."""

    kind: Literal["phantom"]
    hospital: Literal["own", "public"] = "own"
    num_patients: Positive = 300
    seed: int = 0
    settings: dict[str, Any] = {}
    """Further fields of `radscale.phantom.PhantomConfig`."""


class DicomSource(Strict):
    """A DICOM archive with its reports."""

    kind: Literal["dicom"]
    archive: str
    settings: dict[str, Any] = {}
    """Fields of `radscale.datasets.IngestConfig`: reports_csv, labels_csv, columns, ..."""


class ImagesSource(Strict):
    """A folder of images and a CSV that says what is in it."""

    kind: Literal["images"]
    folder: str
    settings: dict[str, Any] = {}
    """Fields of `radscale.datasets.IngestConfig`: table, columns, labels, ..."""


class DatasetSource(Strict):
    """A dataset that `radscale ingest` made."""

    kind: Literal["dataset"]
    path: str
    num_images: Positive | None = None
    """What `plan` counts with while the dataset is not there."""


Source = Annotated[PhantomSource | DicomSource | ImagesSource | DatasetSource, Field(discriminator="kind")]


class Splits(Strict):
    train: Fraction = 0.8
    validation: Fraction = 0.1
    test: Fraction = 0.1

    @model_validator(mode="after")
    def _sum_to_one(self) -> "Splits":
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train, validation and test must sum to 1")
        return self


class DatasetSettings(Strict):
    source: Source
    image_size_px: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Shorter side on disk; None takes the experiment's."""
    splits: Splits = Splits()
    public: bool = False
    """Anybody may link these data back to their source: pseudonyms then come from a published key instead of the study's
    secret, and everybody gets the same splits. Phantoms always do."""
    labels: Literal["rules", "own"] = "rules"
    """`rules`: extracted from the reports; `own`: those that came with the images."""


class OpenWeights(Strict):
    """A model to start from and to beat: a file, or one pretrained here on another dataset."""

    label: str
    load: Literal["dinov2", "rad-dino", "medimageinsight", "checkpoint"] | None = None
    weights: str | None = None
    image_size_px: Annotated[int, Field(ge=14, le=2048)] | None = None
    """Input size of loaded weights in this study; None takes the publisher's."""
    pretrain_on: Name | None = None
    objective: Literal["clip", "unicl", "dinov2"] | None = None
    architecture: dict[str, Any] | None = None
    epochs: PositiveFloat | None = None
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_origin(self) -> "OpenWeights":
        if (self.load is None) == (self.pretrain_on is None):
            raise ValueError("give either load + weights, or pretrain_on + objective + architecture + epochs")
        if self.load is not None and self.weights is None:
            raise ValueError("load needs weights: the path of the file or folder")
        if self.pretrain_on is not None and None in (self.objective, self.architecture, self.epochs):
            raise ValueError("pretrain_on needs objective, architecture and epochs")
        return self


class Arm(Strict):
    """An objective continued from open weights."""

    label: str
    start: Name
    objective: Literal["clip", "unicl", "dinov2"]
    settings: dict[str, Any] = {}
    """Overrides of `pretraining` for this arm."""


class Budget(Strict):
    """The compute that every arm gets at a subset size.

    `epochs` of the `reference` arm are turned into `unit`, and every other arm gets the same amount (paper, section 5:
    all arms train as long as 15 epochs of MedImageInsight take). Or give the amount: `per_image` of the subset, or
    `total`.
    """

    unit: Literal["flops", "samples_seen", "gpu_seconds"] = "flops"
    epochs: PositiveFloat | None = None
    reference: Name | None = None
    per_image: PositiveFloat | None = None
    total: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_amount(self) -> "Budget":
        given = [name for name in ("epochs", "per_image", "total") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of epochs, per_image, total (given: {', '.join(given) or 'none'})")
        if self.epochs is not None and self.reference is None:
            raise ValueError("epochs needs reference: the arm whose epochs are meant")
        if self.epochs is not None and self.unit == "gpu_seconds":
            raise ValueError("epochs can be turned into flops or samples_seen; for gpu_seconds give per_image or total")
        return self


class Evaluation(Strict):
    label: str
    dataset: Name
    tasks: Literal["findings", "tubes", "vindr_cxr", "nih", "ranzcr_tubes", "ranzcr_placement", "all"] | list[str]
    headline: bool = False
    note: str = ""
    probe: dict[str, Any] = {}
    """Overrides of `probe` for this evaluation's dataset."""


class Segmentation(Strict):
    """Masks of a dataset that every encoder of the study is to find (paper, section 5.2)."""

    label: str
    dataset: Name
    masks: str | None = None
    """A folder as `radscale masks` takes it (RANZCR-CLiP, or devices.csv with mask files), or a mask table (.parquet) of the
    dataset. None: the archive of the dataset's phantom."""
    tasks: list[str] | None = None
    """Of the masks; None takes all."""
    line_width: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Of drawn lines, as a share of the image's shorter side."""
    skip_outside: bool = False
    """Leave out lines that leave their image."""
    headline: bool = False
    note: str = ""
    settings: dict[str, Any] = {}
    """Overrides of `segment`."""


class Analysis(Strict):
    num_bootstrap: Positive = 500
    seed: int = 0


class Similarity(Strict):
    num_images: Annotated[int, Field(ge=0, le=12)] = 2
    point: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.35, 0.5]
    """Query point in real images, from the top and from the left, as shares of the centre square."""


class Hardware(Strict):
    """For `plan` and the bars only: what the steps cost. Never part of a result's identity."""

    name: str = "this machine"
    num_devices: Positive = 1
    sustained_tflops: PositiveFloat = 0.05
    """Of a device in training."""
    optimizer_step_seconds: Annotated[float, Field(ge=0)] = 0.02
    """What an optimizer step takes beside its FLOPs: on a CPU what many small operations cost to start."""
    probe_step_seconds: Annotated[float, Field(ge=0)] = 0.002
    """The same of a step of the probes."""
    image_seconds: Annotated[float, Field(ge=0)] = 0.001
    """To read and prepare an image for an encoder."""
    mask_seconds: Annotated[float, Field(ge=0)] = 0.003
    """To measure a predicted mask of a million pixels against the reader's, all metrics."""
    segment_step_seconds: Annotated[float, Field(ge=0)] = 0.01
    """What an optimizer step of the segmentation heads takes beside its FLOPs."""
    start_seconds: Annotated[float, Field(ge=0)] = 0.7
    """Of any step: its process, its inputs, its outputs."""
    price_per_device_hour: Annotated[float, Field(ge=0)] | None = None
    currency: str = "USD"


class Experiment(Strict):
    """A study: datasets, open weights, arms x subset sizes x replicates under one budget, evaluations, segmentations."""

    name: Name
    title: str
    description: str = ""
    seed: int = 0
    num_threads: Positive = 1
    """CPU threads of a step that trains, probes or draws with a network. They decide the last bits of its result (sums are
    split among them), so they are a setting and do not follow the machine or --workers."""
    image_size_px: Annotated[int, Field(ge=16, le=2048)] = 518
    pretraining_dataset: Name
    datasets: Annotated[dict[Name, DatasetSettings], Field(min_length=1)]
    open_weights: Annotated[dict[Name, OpenWeights], Field(min_length=1)]
    arms: Annotated[dict[Name, Arm], Field(min_length=1)]
    subset_sizes: Annotated[list[Positive], Field(min_length=1)]
    replicates: Positive | dict[int, Positive] = 1
    """Random subsets per size: one number for all sizes, or a number for each size."""
    budget: Budget
    pretraining: dict[str, Any] = {}
    """Fields of `radscale.pretraining.PretrainingConfig` for all arms."""
    evaluations: Annotated[dict[Name, Evaluation], Field(min_length=1)]
    probe: dict[str, Any] = {}
    """Fields of `radscale.probing.ProbeConfig`."""
    segmentations: dict[Name, Segmentation] = {}
    segment: dict[str, Any] = {}
    """Fields of `radscale.segmentation.SegmentationConfig`."""
    analysis: Analysis = Analysis()
    similarity: Similarity = Similarity()
    hardware: Hardware = Hardware()

    @property
    def is_phantom(self) -> bool:
        return any(isinstance(dataset.source, PhantomSource) for dataset in self.datasets.values())

    def num_replicates(self, size: int) -> int:
        return self.replicates if isinstance(self.replicates, int) else self.replicates[size]

    @model_validator(mode="after")
    def _refers_to_what_exists(self) -> "Experiment":
        if sorted(set(self.subset_sizes)) != self.subset_sizes:
            raise ValueError("subset_sizes: must rise, each size once")
        if isinstance(self.replicates, dict):
            missing = [size for size in self.subset_sizes if size not in self.replicates]
            extra = [size for size in self.replicates if size not in self.subset_sizes]
            if missing or extra:
                wrong = (missing or extra)[0]
                raise ValueError(f"replicates: one number for each of subset_sizes {self.subset_sizes} (look at {wrong})")
        _need(self.datasets, self.pretraining_dataset, "pretraining_dataset", "datasets")
        for name, weights in self.open_weights.items():
            if weights.pretrain_on is not None:
                _need(self.datasets, weights.pretrain_on, f"open_weights.{name}.pretrain_on", "datasets")
        for name, arm in self.arms.items():
            _need(self.open_weights, arm.start, f"arms.{name}.start", "open_weights")
            if name in self.open_weights:
                raise ValueError(f"arms.{name}: the name is also that of open weights; rename one")
        for name, evaluation in self.evaluations.items():
            _need(self.datasets, evaluation.dataset, f"evaluations.{name}.dataset", "datasets")
            if not isinstance(self.datasets[evaluation.dataset].source, DatasetSource):
                for split in ("train", "test"):
                    if getattr(self.datasets[evaluation.dataset].splits, split) == 0:
                        where = f"datasets.{evaluation.dataset}.splits.{split}"
                        raise ValueError(f"{where}: is 0, and evaluation '{name}' needs images there; give it a share")
        for name, segmentation in self.segmentations.items():
            _need(self.datasets, segmentation.dataset, f"segmentations.{name}.dataset", "datasets")
            if name in self.evaluations:
                raise ValueError(f"segmentations.{name}: the name is also that of an evaluation; rename one")
            source = self.datasets[segmentation.dataset].source
            if segmentation.masks is None and not isinstance(source, PhantomSource):
                raise ValueError(f"segmentations.{name}: needs masks: a folder as `radscale masks` takes it, or a mask table")
        if self.budget.reference is not None:
            _need(self.arms, self.budget.reference, "budget.reference", "arms")
        return self


def _need(known: Mapping[str, Any], name: str, key: str, section: str) -> None:
    if name not in known:
        raise ValueError(f"{key}: '{name}' is not one of {section} ({', '.join(known)})")


@dataclass(frozen=True)
class LoadedExperiment:
    """An experiment and the files that state it."""

    settings: Experiment
    indices: tuple[LineIndex, ...]
    """Of the command line (if it sets anything), the file, and what it extends."""

    def resolve(self, location: Location, path: str) -> Path:
        """A path starts at the folder of the file that states it; of the command line and of a recipe, here."""
        folder = next((index.folder for index in self.indices if location in index), Path.cwd())
        return (folder / Path(path).expanduser()).resolve()

    def locate(self, candidates: Sequence[Location]) -> str:
        """`study.yaml:12: pretraining.batch_size` for the first candidate that some file states."""
        for location in candidates:
            for index in self.indices:
                if location in index:
                    return index.describe(location)
        return self.indices[0].describe(candidates[0])


def recipe_names() -> list[str]:
    """Names of the experiments that come with radscale."""
    folder = resources.files("radscale.recipes")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_experiment(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> LoadedExperiment:
    """Read an experiment file, or a recipe by its name.

    A file may say `extends: RECIPE` (or another file's path): mappings are merged, lists, values and `OWN_WORDS` replaced,
    and a key set to null is removed. A relative path
    starts at the folder of the file that states it.

    Raises:
        InputError: one line that names file, line, key and what is allowed.
    """
    merged, indices = _read_chain(name_or_path, ())
    if overrides:
        merged = _merge(merged, dict(overrides))
        indices = [LineIndex.of_overrides(dict(overrides)), *indices]
    try:
        return LoadedExperiment(Experiment.model_validate(merged), tuple(indices))
    except ValidationError as error:
        raise InputError(_explain(error, merged, indices)) from None


def _read_chain(name_or_path: str, seen: tuple[str, ...]) -> tuple[dict[str, Any], list[LineIndex]]:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or (path.exists() and name_or_path not in recipe_names()):
        values, index = read_yaml(path)
        key = str(path.resolve())
    elif name_or_path in recipe_names():
        text = resources.files("radscale.recipes").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
        values, index = parse_yaml(text, f"recipe {name_or_path}")
        key = name_or_path
    else:
        raise InputError(f"{name_or_path}: neither a YAML file nor a recipe ({', '.join(recipe_names())})")
    if key in seen:
        raise InputError(f"{index.describe(('extends',))}: '{name_or_path}' extends itself; break the circle")
    base_name = values.pop("extends", None)
    if base_name is None:
        return values, [index]
    if not isinstance(base_name, str):
        raise InputError(f"{index.describe(('extends',))}: must be the name of a recipe or a path, got {base_name!r}")
    is_path = base_name.endswith((".yaml", ".yml"))
    base, indices = _read_chain(str(index.folder / base_name) if is_path else base_name, (*seen, key))
    return _merge(base, values), [index, *indices]


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        if value is None and key in merged:
            del merged[key]
        elif isinstance(value, dict) and isinstance(merged.get(key), dict) and not _replaces(key, merged[key], value):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _replaces(key: str, base: dict[str, Any], changes: dict[str, Any]) -> bool:
    """A source of another kind replaces the whole source; so does a mapping whose keys are the user's own words."""
    return key in OWN_WORDS or ("kind" in changes and changes["kind"] != base.get("kind"))


def _explain(error: ValidationError, values: dict[str, Any], indices: list[LineIndex]) -> str:
    # A mistyped key is reported as unknown and, if it was required, as missing: the first is what the person did.
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    location = _document_location(first["loc"], values)
    message = _message(first, location, values)
    key, _, rest = message.partition(": ")
    if first["type"] == "value_error" and not location and rest:
        # Checks of the whole experiment name their key themselves.
        location, message = tuple(key.split(".")), rest
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{_where(location, indices)}: {message}{more}"


def _document_location(location: Location, values: Any) -> Location:
    """Drop the parts that pydantic adds for unions (`images`, `int`, `dict[int,...]`), which stand in no file."""
    kept: list[str | int] = []
    for part in location:
        if isinstance(values, dict) and part in values:
            values = values[part]
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[int(part)]
        elif part == location[-1] and isinstance(values, dict) and not _is_type_name(part):
            values = None
        else:
            continue
        kept.append(part)
    return tuple(kept)


def _is_type_name(part: str | int) -> bool:
    kinds = ("phantom", "dicom", "images", "dataset", "int", "float", "str", "constrained-int", "[key]")
    return isinstance(part, str) and (part in kinds or "[" in part)


def _where(location: Location, indices: list[LineIndex]) -> str:
    for index in indices:
        if location[:1] and location[:1] in index._lines:
            candidates = [i for i in indices if location in i._lines]
            return (candidates[0] if candidates else index).describe(location)
    return indices[0].describe(location)


def _message(problem: Any, location: Location, values: dict[str, Any]) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    given = problem.get("input")
    if kind == "extra_forbidden":
        allowed = _allowed_keys(problem["loc"][:-1])
        close = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        return f"unknown key; {hint}allowed: {', '.join(allowed)}"
    if kind == "missing":
        return "is required and missing"
    if kind == "union_tag_invalid":
        return f"kind is {context.get('tag')!r}; allowed: {context.get('expected_tags')}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"must be a mapping of keys to values, got {given!r}"
    if kind == "string_pattern_mismatch":
        return f"must be letters, digits, '.', '_' and '-', with a letter or digit first, got {given!r}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{message}, got {given!r}"


def _allowed_keys(location: Location) -> list[str]:
    model: Any = Experiment
    for part in location:
        model = _field_model(model, part)
        if model is None:
            return []
    return list(model.model_fields)


def _field_model(model: Any, part: str | int) -> Any:
    """The model one step down: a field, a value of a dictionary of models, or a member of a tagged union."""
    if isinstance(model, dict):
        return model.get(part) or model.get("*")
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or part not in model.model_fields:
        return None
    nested = _models_in(model.model_fields[str(part)].annotation)
    if part in ("datasets", "open_weights", "arms", "evaluations"):
        return {"*": nested[0]}
    if len(nested) > 1:
        return {m.model_fields["kind"].annotation.__args__[0]: m for m in nested}
    return nested[0] if nested else None


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[Any] = []
    for argument in getattr(annotation, "__args__", ()):
        found += [model for model in _models_in(argument) if model not in found]
    return found
