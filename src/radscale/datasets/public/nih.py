"""NIH ChestX-ray14 (Wang et al. 2017): `Data_Entry_2017*.csv`, `train_val_list.txt`, `test_list.txt`, `images*/`.

The labels were mined from reports by rules; what is not listed was not found, and counts as negative.
"""

from radscale.datasets.public.layout import (
    Layout,
    Mark,
    PublicFolder,
    PublicImage,
    PublicOptions,
    official_parts,
    require_unique,
    task_name,
)
from radscale.errors import InputError

TABLE = "Data_Entry_2017*.csv"
COLUMNS = {
    "image": "Image Index",
    "patient": "Patient ID",
    "study": "Follow-up #",
    "age": "Patient Age",
    "sex": "Patient Gender",
    "view": "View Position",
}
LABELS = "Finding Labels"
NO_FINDING = "No Finding"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}


def read(folder: PublicFolder, options: PublicOptions) -> list[PublicImage]:
    rows = folder.table(TABLE, (*COLUMNS.values(), LABELS)).rows
    require_unique((row[COLUMNS["image"]] for row in rows), COLUMNS["image"], TABLE)
    parts = official_parts(folder, LISTS)
    unlisted = sum(row[COLUMNS["image"]] not in parts for row in rows) if parts else 0
    if unlisted:
        raise InputError(f"{unlisted:,} images of {TABLE} are in none of {', '.join(LISTS)}; restore the published lists")
    tasks = {name: task_name(name) for name in (*FINDINGS, NO_FINDING)}
    images = []
    for row in rows:
        name = row[COLUMNS["image"]]
        listed = {label.strip() for label in row[LABELS].split("|")}
        if not listed <= set(tasks):
            raise InputError(f"{TABLE}: a value of '{LABELS}' is none of the 14 findings or {NO_FINDING}; restore the table")
        states = {task: "positive" if label in listed else "negative" for label, task in tasks.items()}
        roles = {role: row[column] for role, column in COLUMNS.items()}
        images.append(
            PublicImage(
                row={**roles, "image": folder.image(name, f"images/{name}")}, labels={"nih": states}, part=parts.get(name, "")
            )
        )
    return images


LAYOUT = Layout("nih", "NIH ChestX-ray14", (Mark((TABLE,), ("Image Index", LABELS)),), read)
