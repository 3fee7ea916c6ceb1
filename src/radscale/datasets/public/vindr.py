"""VinDr-CXR (Nguyen et al. 2022): the PhysioNet form (DICOM, `annotations/`) and the form of the Kaggle competition.

Three radiologists read each training image; the test set of the PhysioNet form is a consensus. No patient ids are published:
every image counts as a patient of its own. Sex and age are in the DICOM headers.
"""

from collections.abc import Iterable, Mapping, Sequence

from radscale.datasets.public.layout import (
    Layout,
    Mark,
    PublicFolder,
    PublicImage,
    PublicOptions,
    ReadersRule,
    binary_states,
    require_unique,
    task_name,
)

LABELS = "annotations/image_labels_{part}.csv"
IDS = ("image_id", "rad_id")
BOXES = "train.csv"
BOX_COLUMNS = ("image_id", "class_name", "rad_id")


def decide(votes: Sequence[bool], rule: ReadersRule) -> str:
    """State that the readers' votes make: `majority` is more than half of them, `any` one, `unanimous` all or none."""
    positive = sum(votes)
    if rule == "unanimous" and 0 < positive < len(votes):
        return "uncertain"
    enough = {"majority": 2 * positive > len(votes), "any": positive > 0, "unanimous": positive == len(votes)}
    return "positive" if enough[rule] else "negative"


def read_physionet(folder: PublicFolder, options: PublicOptions) -> list[PublicImage]:
    images = []
    for part, suffix in (("train", "dicom"), ("test", "dicom")):
        pattern = LABELS.format(part=part)
        table = folder.table(pattern, IDS if part == "train" else IDS[:1])
        columns = {column: task_name(column) for column in table.columns if column not in IDS}
        require_unique((f"{row['image_id']} {row.get('rad_id', '')}" for row in table.rows), "image_id and reader", pattern)
        votes: dict[str, list[set[str]]] = {}
        for row in table.rows:
            states = binary_states(row, columns, pattern)
            votes.setdefault(row["image_id"], []).append({task for task, state in states.items() if state == "positive"})
        images += _images(folder, votes, columns.values(), options, part, f"{part}/{{}}.{suffix}", official=True)
    return images


def read_kaggle(folder: PublicFolder, options: PublicOptions) -> list[PublicImage]:
    rows = folder.table(BOXES, BOX_COLUMNS, keep=BOX_COLUMNS).rows
    readers: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        readers.setdefault(row["image_id"], {}).setdefault(row["rad_id"], set()).add(task_name(row["class_name"]))
    tasks = sorted({task_name(row["class_name"]) for row in rows})
    votes = {image: list(sets.values()) for image, sets in readers.items()}
    return _images(folder, votes, tasks, options, "train", "train/{}.dicom", official=False)


def _images(
    folder: PublicFolder,
    votes: Mapping[str, list[set[str]]],
    tasks: Iterable[str],
    options: PublicOptions,
    part: str,
    expected: str,
    *,
    official: bool,
) -> list[PublicImage]:
    tasks = list(tasks)
    return [
        PublicImage(
            row={"image": folder.image(image, expected.format(image)), "patient": image},
            labels={"radiologists": {task: decide([task in named for named in sets], options.readers_rule) for task in tasks}},
            part=part if official else "",
        )
        for image, sets in votes.items()
    ]


LAYOUTS = (
    Layout(
        "vindr-cxr",
        "VinDr-CXR (PhysioNet)",
        (Mark((LABELS.format(part="train"),), IDS), Mark((LABELS.format(part="test"),), IDS[:1])),
        read_physionet,
    ),
    Layout("vindr-cxr-kaggle", "VinDr-CXR (Kaggle)", (Mark((BOXES,), BOX_COLUMNS),), read_kaggle),
)
