"""Closed lists: findings, lines and tubes, tip locations, and the words that reports use for them.

The 19 findings and the ten types are those of the paper (Table 3, appendix A.7). The paper prints the placement rules of the chest
tube only; the other tip maps follow the same template and common radiological practice.
"""

FINDING_NAMES = {
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
}
FINDINGS = tuple(FINDING_NAMES)

TUBE_NAMES = {
    "ETT": "Endotracheal tube",
    "TT": "Tracheostomy tube",
    "NGT": "Nasogastric tube",
    "SGC": "Swan-Ganz catheter",
    "CT": "Chest tube",
    "MD": "Mediastinal drain",
    "IABP": "Intra-aortic balloon pump",
    "IJ": "Internal jugular central venous catheter",
    "PICC": "Peripherally inserted central catheter",
    "SC": "Subclavian central venous catheter or port",
}
TUBES = tuple(TUBE_NAMES)
UNROUTED = "CVC"
"""A central venous catheter whose route is not stated: an entry of its own, not one of the ten types."""

SIDES = ("left", "right", "midline", "N/A")
PLACEMENTS = ("correct", "incorrect", "unclear", "N/A")

_CENTRAL_VENOUS = {
    "SVC": "correct",
    "cavoatrial junction": "correct",
    "upper right atrium": "correct",
    "right atrium": "unclear",
    "brachiocephalic vein": "unclear",
    "subclavian vein": "incorrect",
    "axillary vein": "incorrect",
    "internal jugular vein": "incorrect",
    "azygos vein": "incorrect",
    "right ventricle": "incorrect",
    "IVC": "incorrect",
    "pulmonary artery": "incorrect",
    "extravascular": "incorrect",
}
TIP_PLACEMENT = {
    "ETT": {
        "mid trachea": "correct",
        "2-7 cm above carina": "correct",
        "above carina": "correct",
        "less than 2 cm above carina": "incorrect",
        "more than 7 cm above carina": "incorrect",
        "at thoracic inlet": "unclear",
        "above thoracic inlet": "incorrect",
        "at carina": "incorrect",
        "main bronchus": "incorrect",
        "esophagus": "incorrect",
    },
    "TT": {"mid trachea": "correct", "above carina": "correct", "at carina": "incorrect", "main bronchus": "incorrect", "outside trachea": "incorrect"},
    "NGT": {
        "stomach": "correct",
        "below diaphragm": "correct",
        "duodenum or beyond": "correct",
        "side port above gastroesophageal junction": "incorrect",
        "gastroesophageal junction": "incorrect",
        "esophagus": "incorrect",
        "airway": "incorrect",
    },
    "SGC": {
        "pulmonary artery": "correct",
        "pulmonary outflow tract": "unclear",
        "distal pulmonary artery": "incorrect",
        "right ventricle": "incorrect",
        "right atrium": "incorrect",
        "SVC": "incorrect",
        "IVC": "incorrect",
    },
    # The map that the paper prints for chest tubes.
    "CT": {
        "upper": "correct",
        "middle": "correct",
        "lower": "correct",
        "below diaphragm": "incorrect",
        "side port outside rib cage": "incorrect",
        "outside chest": "incorrect",
        "adjacent to mediastinum/esp aorta": "incorrect",
    },
    "MD": {"mediastinum": "correct", "outside chest": "incorrect"},
    "IABP": {
        "proximal descending aorta": "correct",
        "aortic arch": "incorrect",
        "above aortic arch": "incorrect",
        "low descending or abdominal aorta": "incorrect",
    },
    "IJ": _CENTRAL_VENOUS,
    "PICC": {**_CENTRAL_VENOUS, "brachiocephalic vein": "incorrect"},
    "SC": {**_CENTRAL_VENOUS, "subclavian vein": "unclear"},
    "CVC": {**_CENTRAL_VENOUS, "subclavian vein": "unclear", "internal jugular vein": "unclear"},
}
"""Type -> tip location -> placement. `unclear` and `N/A` map to themselves for each type."""
