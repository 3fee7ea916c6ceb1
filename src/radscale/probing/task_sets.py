"""Named sets of tasks and the names people know them by.

The keys of `findings` and `tubes` are the closed lists of the label tables: 19 findings and "no finding" (paper, Table 2), ten
kinds of lines and tubes and "no tubes" (paper, Table 3), each in the order of the paper.
"""

import difflib
from collections.abc import Iterable

from radscale.errors import InputError

FINDINGS = {
    "hyperinflation": "Hyperinflation",
    "interstitial_lung_disease_pattern": "Interstitial lung disease pattern",
    "atelectasis": "Atelectasis",
    "costophrenic_angle_blunting": "Costophrenic angle blunting",
    "pleural_effusion": "Pleural effusion",
    "pneumothorax": "Pneumothorax",
    "adenopathy": "Adenopathy",
    "enlarged_pulmonary_artery": "Enlarged pulmonary artery",
    "arterial_calcification": "Arterial calcification",
    "osseous_abnormalities": "Osseous abnormalities",
    "rib_fracture": "Rib fracture",
    "bronchial_wall_thickening": "Bronchial wall thickening",
    "hernia": "Hernia",
    "subcutaneous_air": "Subcutaneous air",
    "opacity": "Opacity",
    "vascular_congestion": "Vascular congestion",
    "cardiomegaly": "Cardiomegaly",
    "diaphragm_elevation": "Diaphragm elevation",
    "pulmonary_edema": "Pulmonary edema",
    "no_finding": "No finding",
}

TUBES = {
    "ETT": "Endotracheal tube (ETT)",
    "TT": "Tracheostomy tube (TT)",
    "NGT": "Nasogastric tube (NGT)",
    "SGC": "Swan-Ganz catheter (SGC)",
    "CT": "Chest tube (CT)",
    "MD": "Mediastinal drain (MD)",
    "IABP": "Intra-aortic balloon pump (IABP)",
    "IJ": "Internal jugular line (IJ)",
    "PICC": "Peripherally inserted central catheter (PICC)",
    "SC": "Subclavian line (SC)",
    "NT": "No tubes (NT)",
}

VINDR = {
    "aortic_enlargement": "Aortic enlargement",
    "cardiomegaly": "Cardiomegaly",
    "lung_opacity": "Lung opacity",
    "pleural_effusion": "Pleural effusion",
    "pleural_thickening": "Pleural thickening",
    "pulmonary_fibrosis": "Pulmonary fibrosis",
    "tuberculosis": "Tuberculosis",
}
"""The seven findings that the paper evaluates on VinDr-CXR (Table 4)."""

NIH = {
    "atelectasis": "Atelectasis",
    "cardiomegaly": "Cardiomegaly",
    "consolidation": "Consolidation",
    "pulmonary_edema": "Pulmonary edema",
    "pleural_effusion": "Pleural effusion",
    "emphysema": "Emphysema",
    "fibrosis": "Fibrosis",
    "hernia": "Hernia",
    "infiltration": "Infiltration",
    "mass": "Mass",
    "nodule": "Nodule",
    "pleural_thickening": "Pleural thickening",
    "pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
}
"""The 14 labels of NIH ChestX-ray14 (Wang et al. 2017, Table 1), under the names of the closed list where it has them."""

RANZCR_TUBES = {
    "SGC": "Swan-Ganz catheter (SGC)",
    "CVC": "Central venous catheter (CVC)",
    "ETT": "Endotracheal tube (ETT)",
    "NGT": "Nasogastric tube (NGT)",
}
"""Tubes of RANZCR-CLiP in the order of the paper's Table 5: there or not."""

RANZCR_PLACEMENT = {
    "ett_abnormal": "ETT, abnormal",
    "ett_borderline": "ETT, borderline",
    "ett_normal": "ETT, normal",
    "ngt_abnormal": "NGT, abnormal",
    "ngt_borderline": "NGT, borderline",
    "ngt_incompletely_imaged": "NGT, incompletely imaged",
    "ngt_normal": "NGT, normal",
    "cvc_abnormal": "CVC, abnormal",
    "cvc_borderline": "CVC, borderline",
    "cvc_normal": "CVC, normal",
    "swan_ganz_catheter_present": "Swan-Ganz catheter present",
}
"""The eleven columns of RANZCR-CLiP's table."""

TASK_SETS = {
    "findings": tuple(FINDINGS),
    "tubes": tuple(TUBES),
    "vindr_cxr": tuple(VINDR),
    "nih": tuple(NIH),
    "ranzcr_tubes": tuple(RANZCR_TUBES),
    "ranzcr_placement": tuple(RANZCR_PLACEMENT),
}

EXTRACTED = (*FINDINGS, *TUBES)
"""What `radscale extract` looks for; the other sets name labels of published data."""

DISPLAY_NAMES = {**VINDR, **NIH, **RANZCR_TUBES, **RANZCR_PLACEMENT, **FINDINGS, **TUBES}


def display_name(task: str) -> str:
    """The name for people; a task outside the closed lists keeps its key with underscores as spaces."""
    return DISPLAY_NAMES.get(task) or task.replace("_", " ").capitalize()


def resolve_tasks(tasks: str | tuple[str, ...], labelled: Iterable[str]) -> tuple[str, ...]:
    """Task keys of a task set.

    Args:
        tasks: a name in `TASK_SETS`, "all" (every task in the label table, by name), or the keys themselves.
        labelled: tasks that occur in the label table.

    Raises:
        InputError: an unknown set, an empty or repeating list, or a listed key that the label table does not have.
    """
    known = sorted(set(labelled))
    if tasks == "all":
        return tuple(known)
    if isinstance(tasks, str):
        if tasks not in TASK_SETS:
            raise InputError(f"tasks: '{tasks}' is not one of {', '.join(TASK_SETS)}, all; give one or a list of tasks")
        return TASK_SETS[tasks]
    if not tasks or len(set(tasks)) != len(tasks):
        raise InputError(f"tasks: {list(tasks)} is empty or names a task twice; list each task once")
    for task in tasks:
        if task not in known:
            close = difflib.get_close_matches(task, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(known[:12]) or 'no tasks'}"
            raise InputError(f"tasks: '{task}' is not in the label table; {hint}")
    return tuple(tasks)
