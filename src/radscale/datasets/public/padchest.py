"""PadChest (Bustos et al. 2020): `PADCHEST_chest_x_ray_images_labels_*.csv`, 16-bit PNG in numbered folders.

Labels are a Python list per report, by physicians or by a network trained on theirs; both are taken. The tree of labels counts:
a laminar atelectasis is an atelectasis. The reports are Spanish word stems and are not taken.
"""

import ast

from radscale.datasets.public.layout import (
    Layout,
    Mark,
    PublicFolder,
    PublicImage,
    PublicOptions,
    require_unique,
    task_name,
)
from radscale.errors import InputError

TABLE = "PADCHEST_chest_x_ray_images_labels_*.csv"
COLUMNS = (
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "Projection",
    "Manufacturer_DICOM",
    "Labels",
)
VIEWS = {"PA": "PA", "AP": "AP", "AP_horizontal": "AP", "L": "LATERAL", "COSTAL": "", "UNK": "", "EXCLUDE": ""}
NO_LABELS = frozenset({"", "exclude", "suboptimal study", "unchanged"})
"""They say how good an image is or point to a report that is not there, not what is seen."""
SAME = {
    "hyperinflated lung": "hyperinflation",
    "hemidiaphragm elevation": "diaphragm_elevation",
    "hiatal hernia": "hernia",
    "subcutaneous emphysema": "subcutaneous_air",
    "pulmonary artery enlargement": "enlarged_pulmonary_artery",
    "endotracheal tube": "ETT",
    "tracheostomy tube": "TT",
    "NSG tube": "NGT",
    "chest drain tube": "CT",
    "central venous catheter via jugular vein": "IJ",
    "central venous catheter via subclavian vein": "SC",
}
"""Labels that the closed lists of findings and tubes call otherwise."""
PARENTS = {
    "laminar atelectasis": "atelectasis",
    "lobar atelectasis": "atelectasis",
    "segmental atelectasis": "atelectasis",
    "round atelectasis": "atelectasis",
    "total atelectasis": "atelectasis",
    "atelectasis basal": "atelectasis",
    "loculated pleural effusion": "pleural_effusion",
    "atypical pneumonia": "pneumonia",
    "callus rib fracture": "rib_fracture",
    "calcified adenopathy": "adenopathy",
    "apical pleural thickening": "pleural_thickening",
    "calcified pleural thickening": "pleural_thickening",
}
"""Labels below another one in the published tree."""


def read(folder: PublicFolder, options: PublicOptions) -> list[PublicImage]:
    rows = folder.table(TABLE, COLUMNS, keep=COLUMNS).rows
    require_unique((row["ImageID"] for row in rows), "ImageID", TABLE)
    return [
        PublicImage(
            row={
                "image": folder.image(row["ImageID"], f"{row['ImageDir']}/{row['ImageID']}"),
                "patient": row["PatientID"],
                "study": row["StudyID"],
                "study_day": row["StudyDate_DICOM"],
                "view": _view(row["Projection"]),
                "sex": row["PatientSex_DICOM"],
                "age": _age(row["StudyDate_DICOM"], row["PatientBirth"]),
                "manufacturer": row["Manufacturer_DICOM"],
            },
            labels={"padchest": dict.fromkeys(_tasks(row["Labels"]), "positive")},
            excluded="the publisher says so (Projection EXCLUDE)" if row["Projection"] == "EXCLUDE" else "",
        )
        for row in rows
    ]


def _view(projection: str) -> str:
    if projection not in VIEWS:
        raise InputError(f"{TABLE}: a Projection is none of {', '.join(VIEWS)}; restore the published table")
    return VIEWS[projection]


def _age(study_date: str, birth_year: str) -> str:
    """Whole years, to one year; empty if one of them is not known."""
    try:
        return str(int(float(study_date[:4])) - int(float(birth_year)))
    except ValueError:
        return ""


def _tasks(text: str) -> set[str]:
    """Tasks of a list such as "['normal', ' pleural effusion']"; the 103 rows without a list have none."""
    if not text.strip() or text.strip() == "nan":
        return set()
    try:
        labels = [label.strip() for label in ast.literal_eval(text)]
    except (ValueError, SyntaxError, TypeError, AttributeError, RecursionError, MemoryError):
        raise InputError(f"{TABLE}: a value of Labels is not a list of labels; restore the published table") from None
    labels = [label for label in labels if label not in NO_LABELS]
    return {SAME.get(label) or task_name(label) for label in labels} | {PARENTS[label] for label in labels if label in PARENTS}


LAYOUT = Layout("padchest", "PadChest", (Mark((TABLE,), ("ImageID", "Projection")),), read, level="study")
