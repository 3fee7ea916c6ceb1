"""CheXpert (Irvin et al. 2019): `train.csv`, `valid.csv` (and `test.csv` where there), images at their `Path`.

Training labels come from reports by rules: 1, 0, -1 (uncertain) or blank (not mentioned); radiologists labelled the others.
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
from radscale.errors import InputError

COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
TABLES = ("train.csv", "valid.csv", "test.csv")
OPTIONAL = "test.csv"


def read(folder: PublicFolder, options: PublicOptions) -> list[PublicImage]:
    with_test = folder.find(OPTIONAL) is not None
    # The small evaluation set is the test set unless the later test set is there too.
    parts = {"train.csv": "train", "valid.csv": "validation" if with_test else "test", "test.csv": "test"}
    images = []
    for table_name in TABLES if with_test else TABLES[:2]:
        table = folder.table(table_name, COLUMNS)
        labels = {column: task_name(column) for column in table.columns if column and column not in COLUMNS}
        require_unique((row["Path"] for row in table.rows), "Path", table_name)
        for row in table.rows:
            names = row["Path"].strip().split("/")
            if len(names) < 3:
                raise InputError(f"{table_name}: a Path is not .../patient/study/view; restore the published table")
            patient, study, _ = names[-3:]
            # The folder is the set's own (CheXpert-v1.0-small): paths name it first.
            path = "/".join(names if (folder.path / names[0]).is_dir() else names[1:])
            roles = {
                "image": path,
                "patient": patient,
                "study": study,
                "sex": row["Sex"],
                "age": row["Age"],
                "view": row["AP/PA"].strip() or row["Frontal/Lateral"],
            }
            states = binary_states(row, labels, table_name)
            images.append(PublicImage(row=roles, labels={"chexpert": states}, part=parts[table_name]))
    return images


LAYOUT = Layout(
    "chexpert",
    "CheXpert",
    (Mark(("train.csv",), ("Path", "Frontal/Lateral")), Mark(("valid.csv",), ("Path", "Frontal/Lateral"))),
    read,
    level="study",
)
