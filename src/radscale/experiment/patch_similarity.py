"""Patch similarity (paper, Figure 1): maps of several encoders side by side, and how far devices can be followed in them."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radscale.errors import InputError

if TYPE_CHECKING:
    from radscale.analysis.text_tables import TextTable
    from radscale.datasets.device_masks import MarkedDevice, MarkedImage
    from radscale.models.encoder import Encoder
    from radscale.models.similarity import Box

Progress = Callable[[int, int, str], None]
Point = tuple[float, float]
PICTURE_PX = 480
"""Shorter side of drawn pictures; encoders see the image itself."""
MIN_PATCHES = 4
"""A device with fewer patches on a map is not scored there: there is no curve to follow."""
CHANCE_DRAWS = 20
SETS = "a phantom archive (truth/devices.csv), RANZCR-CLiP (train_annotations.csv) or a folder with devices.csv"


@dataclass(frozen=True)
class DeviceScore:
    """One device in one layer of one encoder. Rows and patients are numbers, so that the table names nobody."""

    row: int
    """Of the table of devices, the first under the header is 1."""
    patient: int
    """In order of appearance."""
    device: str
    encoder: str
    layer: int
    """1 to 4."""
    grid: str
    """Rows x columns of the map. Scores compare within one grid: on a coarser one a device has fewer patches to lose."""
    patches: int
    score: float
    """`curve_continuity`; the mean over both ends where the tip is not marked. So are the next three."""
    recall: float
    position_only: float
    chance: float


def load_encoders(texts: Sequence[str], model: str | None = None, image_size_px: int | None = None) -> dict[str, "Encoder"]:
    """Encoders by label from `[LABEL=]PATH[:MODEL]`, on the GPU if there is one.

    Args:
        texts: PATH is a checkpoint, or open weights of MODEL (medimageinsight, rad-dino or dinov2). Without LABEL the end of
            the path that tells the encoders apart.
        model: for those without `:MODEL`.
        image_size_px: side of the encoder's input instead of its own; ViTs interpolate their positions.

    Raises:
        InputError: weights that cannot be read, one label twice, or an impossible size.
    """
    import torch

    from radscale.training.open_weights import NAMES, load_encoder

    parsed: list[tuple[str, str, str | None]] = []
    for text in texts:
        place, _, family = text.rpartition(":")
        place, own = (place, family) if place and family in NAMES else (text, model)
        label, found, path = place.partition("=")
        # Paths of our own runs hold a "=" too.
        if not found or Path(place).exists() or ("/" in label and not Path(path).exists()):
            label, path = "", place
        parsed.append((label, path, own))
    labels = _labels([(label, path) for label, path, _ in parsed])
    encoders = {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for label, (_, path, own) in zip(labels, parsed, strict=True):
        encoder = load_encoder(path) if own is None else load_encoder(own, path)
        if image_size_px is not None:
            encoder.preprocessing = replace(encoder.preprocessing, image_size_px=image_size_px)
        encoders[label] = encoder.to(device)
    return encoders


def _labels(parsed: Sequence[tuple[str, str]]) -> list[str]:
    """Given labels, else ends of the paths, as long as needed to tell them apart."""
    longest = max(len(Path(path).parts) for _, path in parsed)
    for length in range(1, longest + 1):
        labels = [label or "/".join(Path(path).parts[-length:]) for label, path in parsed]
        if len(set(labels)) == len(labels):
            return labels
    repeated = next(label for label in labels if labels.count(label) > 1)
    raise InputError(f"encoder '{repeated}' is given twice; give each another name: LABEL=PATH")


def read_grey(path: Path, name: str | None = None) -> np.ndarray:
    """(H, W) uint8 of a DICOM, PNG, JPEG or TIFF file: its range scaled to 0..255, pixels square.

    Args:
        path: of the file.
        name: what errors call it, where a path may name a patient; None: the path.

    Raises:
        InputError: the file cannot be read, or has one value only.
    """
    from radscale.datasets.exclusions import Excluded
    from radscale.datasets.files import read_grey_image

    if not path.is_file():
        raise InputError(f"{name or path}: no such image file; correct the path")
    try:
        return read_grey_image(path).pixels
    except Excluded as verdict:
        raise InputError(f"{name or path}: {verdict}; take another image") from None


def feature_maps(encoder: "Encoder", image: np.ndarray) -> "tuple[list[np.ndarray], Box]":
    """Four maps (D, h, w) of an image (H, W) uint8, and the box of the image that they cover."""
    import torch

    from radscale.models import visible_box

    device = next(encoder.parameters()).device
    with torch.inference_mode():
        features = encoder.forward_features(encoder.preprocess([image]).to(device))
    maps = [feature_map[0].float().cpu().numpy() for feature_map in features]
    return maps, visible_box(encoder.preprocessing, (image.shape[0], image.shape[1]))


def similarity_maps(encoders: Mapping[str, "Encoder"], image: np.ndarray, point: Point) -> dict[str, np.ndarray]:
    """Similarity of every patch with the one that holds a point, for four layers of every encoder.

    Args:
        encoders: by label.
        image: (H, W) uint8.
        point: (y, x) as shares of the image from its top left corner.

    Returns:
        `LABEL|LAYER`, layers 0 to 3: (h, w) float32; `LABEL|box`: (4,) top, left, height and width of what the encoder sees,
        as shares of the image.

    Raises:
        InputError: an encoder crops the point away.
    """
    from radscale.models import patch_at

    height, width = image.shape
    maps: dict[str, np.ndarray] = {}
    for label, encoder in encoders.items():
        layers, box = feature_maps(encoder, image)
        for index, layer in enumerate(layers):
            place = patch_at((point[0] * height, point[1] * width), box, (layer.shape[1], layer.shape[2]))
            if place is None:
                top, left = box[0] / height, box[1] / width
                bottom, right = top + box[2] / height, left + box[3] / width
                raise InputError(
                    f"point {point[1]:g},{point[0]:g} is outside the centre crop that {label} sees: choose x from {left:.3f} "
                    f"to {right:.3f} and y from {top:.3f} to {bottom:.3f}"
                )
            maps[f"{label}|{index}"] = _similarity(layer, place)
        maps[f"{label}|box"] = np.array(box) / (height, width, height, width)
    return maps


def _similarity(layer: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    import torch

    from radscale.models import patch_similarity

    return patch_similarity(torch.from_numpy(layer), *place).numpy().astype(np.float32)


def shown(image: np.ndarray) -> np.ndarray:
    """An image (H, W) as it is drawn: shorter side of `PICTURE_PX`."""
    import cv2

    scale = PICTURE_PX / min(image.shape)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))


def save_similarity(
    encoders: Mapping[str, "Encoder"],
    image: Path,
    point: Point,
    out: Path,
    *,
    maps_file: Path | None = None,
    stretch: bool = False,
) -> None:
    """The picture of Figure 1 as a PNG, SVG or PDF file, and if wanted the maps as `.npz` (see `similarity_maps`)."""
    from radscale.html_report.figures import save_figure, similarity_figure

    if maps_file is not None and maps_file.suffix != ".npz":
        raise InputError(f"--maps {maps_file}: maps are written as .npz; choose this ending")
    grey = read_grey(image)
    maps = similarity_maps(encoders, grey, point)
    picture = shown(grey)
    pixel = int(point[0] * picture.shape[0]), int(point[1] * picture.shape[1])
    save_figure(similarity_figure(picture, pixel, maps, stretch=stretch), out)
    if maps_file is not None:
        maps_file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(maps_file, **maps)  # type: ignore[arg-type]


def read_marked(folder: Path) -> "list[MarkedImage]":
    """Images with the masks and tips of their devices.

    Raises:
        InputError: a folder of no known kind, or one without devices.
    """
    from radscale.datasets.device_masks import DEVICE_TABLE, RANZCR_TABLE, read_device_table, read_ranzcr

    for table, reader in (
        (f"truth/{DEVICE_TABLE}", _read_phantom),
        (RANZCR_TABLE, read_ranzcr),
        (DEVICE_TABLE, read_device_table),
    ):
        if (folder / table).exists():
            images = reader(folder)
            if not images:
                raise InputError(f"{folder}: {table} has no rows; there is nothing to score")
            return images
    raise InputError(f"{folder}: no marked devices in it; give {SETS}, or one image")


def _read_phantom(archive: Path) -> "list[MarkedImage]":
    from radscale.datasets.device_masks import MarkedDevice, group_by_image
    from radscale.phantom.devices import DEVICES

    files = {path.stem: path for path in (archive / "dicom").rglob("*.dcm")}
    devices = []
    with (archive / "truth" / "devices.csv").open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            path = files[row["sop_uid"]]
            device = MarkedDevice(
                row=number,
                kind=row["type"],
                tips=((float(row["tip_y_px"]), float(row["tip_x_px"])),),
                mask_file=archive / "truth" / "masks" / f"{row['sop_uid']}.png",
                mask_value=DEVICES.index(row["type"]) + 1,
            )
            devices.append((path, path.parent.parent.name, device))
    return group_by_image(devices)


@dataclass(frozen=True)
class _Course:
    """A device on one patch grid, with what its score means there."""

    device: "MarkedDevice"
    patches: np.ndarray
    ignore: np.ndarray
    tips: list[tuple[int, int]]
    position_only: float
    chance: float


def score_devices(
    encoders: Mapping[str, "Encoder"],
    images: "Sequence[MarkedImage]",
    progress: Progress | None = None,
    *,
    grid: int | None = None,
    seed: int = 0,
) -> tuple[list[DeviceScore], list[str]]:
    """Curve continuity of every device, in four layers of every encoder.

    A device is left out of a layer where its tip is cropped away or it has fewer than `MIN_PATCHES` patches. An image that
    cannot be read, or with a mask that cannot, is left out whole.

    Args:
        encoders: by label.
        images: see `read_marked`.
        progress: called with (done, total, what).
        grid: bring every map to this many rows and columns first, so that encoders with unlike maps compare. None: as they are.
        seed: of the random maps behind `chance`.

    Returns:
        Scores, and a line for every image that was left out.

    Raises:
        InputError: not one device can be scored.
    """
    patients = {name: number for number, name in enumerate(dict.fromkeys(image.patient for image in images), start=1)}
    scores: list[DeviceScore] = []
    left_out: list[str] = []
    for done, image in enumerate(images):
        if progress is not None:
            progress(done, len(images), "images with devices")
        try:
            grey = read_grey(image.path, f"image of row {image.devices[0].row}")
            shape = (grey.shape[0], grey.shape[1])
            masks = {device.row: device.mask(shape) for device in image.devices}
        except InputError as error:
            left_out.append(str(error))
            continue
        courses: dict[tuple[tuple[int, int], Box], list[_Course]] = {}
        for label, encoder in encoders.items():
            layers, box = feature_maps(encoder, grey)
            for number, native in enumerate(layers, start=1):
                layer = native if grid is None else _resampled(native, grid)
                size = (layer.shape[1], layer.shape[2])
                if (size, box) not in courses:
                    courses[size, box] = _courses(image.devices, masks, shape, size, box, seed)
                patient = patients[image.patient]
                scores += [_score(course, layer, patient, label, number) for course in courses[size, box]]
    if not scores:
        raise InputError(
            f"none of the devices can be scored: {left_out[0]}"
            if left_out
            else "none of the devices can be scored: tips are outside what the encoders see, or devices have under "
            f"{MIN_PATCHES} patches; use larger images (--size)"
        )
    return scores, left_out


def _resampled(layer: np.ndarray, grid: int) -> np.ndarray:
    """(D, grid, grid) features, interpolated as a head that reads them at another resolution would."""
    import torch
    import torch.nn.functional as F

    features = torch.from_numpy(layer)[None]
    return F.interpolate(features, size=(grid, grid), mode="bilinear", align_corners=False, antialias=True)[0].numpy()


def _score(course: _Course, layer: np.ndarray, patient: int, label: str, number: int) -> DeviceScore:
    from radscale.metrics import curve_continuity

    results = [curve_continuity(_similarity(layer, tip), course.patches, tip, ignore=course.ignore) for tip in course.tips]
    return DeviceScore(
        row=course.device.row,
        patient=patient,
        device=course.device.kind,
        encoder=label,
        layer=number,
        grid=f"{layer.shape[1]}x{layer.shape[2]}",
        patches=int(np.count_nonzero(course.patches)),
        score=float(np.mean([result.score for result in results])),
        recall=float(np.mean([result.recall for result in results])),
        position_only=course.position_only,
        chance=course.chance,
    )


def _courses(
    devices: "Sequence[MarkedDevice]",
    masks: Mapping[int, np.ndarray],
    shape: tuple[int, int],
    grid: tuple[int, int],
    box: "Box",
    seed: int,
) -> list[_Course]:
    """The devices that can be scored on a grid over a box of an image of this shape."""
    from radscale.metrics.continuity import chance_continuity, curve_continuity, distance_map, patches_of_mask
    from radscale.models import patch_at

    # Masks may be finer or coarser than the image; positions are in pixels of the mask.
    boxes = {}
    for row, mask in masks.items():
        scale_y, scale_x = mask.shape[0] / shape[0], mask.shape[1] / shape[1]
        boxes[row] = (box[0] * scale_y, box[1] * scale_x, box[2] * scale_y, box[3] * scale_x)
    placed = {row: patches_of_mask(mask, grid, boxes[row]) for row, mask in masks.items()}
    courses = []
    for device in devices:
        patches, touched = placed[device.row]
        tips = [place for place in (patch_at(tip, boxes[device.row], grid) for tip in device.tips) if place is not None]
        if not tips or np.count_nonzero(patches) < MIN_PATCHES:
            continue
        twins = [placed[other.row][1] for other in devices if other.kind == device.kind and other is not device]
        ignore = touched | _near(twins, grid)
        alone = [curve_continuity(distance_map(grid, tip), patches, tip, ignore=ignore).score for tip in tips]
        chance = [chance_continuity(patches, tip, ignore=ignore, num_draws=CHANCE_DRAWS, seed=seed) for tip in tips]
        courses.append(_Course(device, patches, ignore, tips, float(np.mean(alone)), float(np.mean(chance))))
    return courses


def _near(masks: Sequence[np.ndarray], grid: tuple[int, int]) -> np.ndarray:
    """Patches of any mask or beside one: the tolerance that a device itself has."""
    from scipy import ndimage

    union = np.any([np.zeros(grid, bool), *masks], axis=0)
    return np.asarray(ndimage.binary_dilation(union, np.ones((3, 3), bool)))


def summarise_scores(scores: Iterable[DeviceScore], *, num_replicates: int = 2000, seed: int = 0) -> "TextTable":
    """Mean of every encoder and layer, what it gains over position alone, and its difference to the first encoder.

    Intervals are over patients; gains and differences are of the same devices on the same grid, in pairs.
    """
    from radscale.analysis.bootstrap import bootstrap_mean
    from radscale.analysis.text_tables import Column, TextTable, share

    cells: dict[tuple[str, int], dict[int, DeviceScore]] = {}
    for score in scores:
        cells.setdefault((score.encoder, score.layer), {})[score.row] = score
    first = next(iter(cells))[0]

    def estimate(name: str, values: list[float], patients: list[int]) -> dict[str, float]:
        result = bootstrap_mean(values, patients, num_replicates=num_replicates, seed=seed)
        return {name: result.observed, f"{name}_low": result.low, f"{name}_high": result.high}

    rows: list[dict[str, Any]] = []
    for (encoder, layer), own in cells.items():
        items = list(own.values())
        patients = [item.patient for item in items]
        line = {
            "encoder": encoder,
            "layer": layer,
            "grid": items[0].grid,
            "devices": len(items),
            "patients": len(set(patients)),
            **estimate("mean", [item.score for item in items], patients),
            "median": float(np.median([item.score for item in items])),
            "recall": float(np.mean([item.recall for item in items])),
            "position_only": float(np.mean([item.position_only for item in items])),
            "chance": float(np.mean([item.chance for item in items])),
            **estimate("gain", [item.score - item.position_only for item in items], patients),
        }
        reference = cells.get((first, layer), {})
        pairs = [(item, reference[row]) for row, item in own.items() if row in reference and reference[row].grid == item.grid]
        if encoder != first and pairs:
            line |= estimate("difference", [a.score - b.score for a, b in pairs], [a.patient for a, _ in pairs])
        rows.append(line)
    columns = [
        Column("encoder", "encoder", align="left"),
        Column("layer", "layer"),
        Column("grid", "grid"),
        Column("devices", "devices"),
        Column("continuity", "mean", share),
        Column("95% interval", ("mean_low", "mean_high"), share),
        Column("chance", "chance", share),
        Column("position alone", "position_only", share),
        Column("over position", "gain", _signed),
        Column("95% interval", ("gain_low", "gain_high"), _signed),
    ]
    if len({encoder for encoder, _ in cells}) > 1:
        columns += [
            Column(f"minus {first}", "difference", _signed),
            Column("95% interval", ("difference_low", "difference_high"), _signed),
        ]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    notes = []
    if len({line["grid"] for line in rows}) > 1:
        notes.append("Scores on unlike grids do not compare: a coarse map has fewer patches to lose. --grid brings all to one.")
    return TextTable("Curve continuity", columns, rows, keys, notes=notes)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def save_scores(scores: Sequence[DeviceScore], table: "TextTable", out: Path) -> None:
    """Write `scores.csv` (a row per device, encoder and layer), `summary.csv` and `continuity.png`, `.svg`."""
    from radscale.html_report.figures import continuity_figure, save_figure

    out.mkdir(parents=True, exist_ok=True)
    with (out / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(DeviceScore.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)
    (out / "summary.csv").write_text(table.render("csv"), encoding="utf-8")
    for suffix in ("png", "svg"):
        save_figure(continuity_figure(table.rows), out / f"continuity.{suffix}")
