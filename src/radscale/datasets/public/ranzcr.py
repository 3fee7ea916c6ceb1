"""RANZCR-CLiP (Tang et al. 2021): `train.csv`, `train/UID.jpg`; the courses in `train_annotations.csv` are for `device_masks`.

Eleven columns say which tubes are there and how they lie.
"""

from radscale.datasets.public.layout import (
    Layout,
    Mark,
    PublicFolder,
    PublicImage,
    PublicOptions,
    binary_states,
    require_unique,
    task_name,
)

TABLE = "train.csv"
IDS = ("StudyInstanceUID", "PatientID")
TUBES = {"ETT": "ETT", "NGT": "NGT", "CVC": "CVC", "Swan Ganz Catheter": "SGC"}
"""Device, as its columns begin, to the task "it is there"."""
PLACEMENTS = (
    "ETT - Abnormal",
    "ETT - Borderline",
    "ETT - Normal",
    "NGT - Abnormal",
    "NGT - Borderline",
    "NGT - Incompletely Imaged",
    "NGT - Normal",
    "CVC - Abnormal",
    "CVC - Borderline",
    "CVC - Normal",
    "Swan Ganz Catheter Present",
)


def read(folder: PublicFolder, options: PublicOptions) -> list[PublicImage]:
    rows = folder.table(TABLE, (*IDS, *PLACEMENTS)).rows
    require_unique((row[IDS[0]] for row in rows), IDS[0], TABLE)
    columns = {column: task_name(column) for column in PLACEMENTS}
    images = []
    for row in rows:
        uid = row[IDS[0]]
        states = binary_states(row, columns, TABLE)
        for device, task in TUBES.items():
            present = any(states.get(name) == "positive" for column, name in columns.items() if column.startswith(device))
            states[task] = "positive" if present else "negative"
        images.append(
            PublicImage(
                row={"image": folder.image(uid, f"train/{uid}.jpg"), "patient": row[IDS[1]]},
                labels={"radiologists": states},
            )
        )
    return images


LAYOUT = Layout("ranzcr-clip", "RANZCR-CLiP", (Mark((TABLE,), (*IDS, *PLACEMENTS[:1])),), read)
