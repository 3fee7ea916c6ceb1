"""Two hospitals that differ in people, scanners and reporting habits."""

from dataclasses import dataclass

from radscale.phantom.reports import Habits


@dataclass(frozen=True)
class Hospital:
    """What is particular to a hospital."""

    scanners: dict[str, float]
    """Scanner names to their share."""
    age_mean: float
    age_std: float
    female_share: float
    inpatient_share: float
    finding_rates: dict[str, float]
    device_rates: dict[str, float]
    incorrect_rate: float
    missing_view_rate: float
    ethnic_groups: dict[str, float]
    """What stands in Ethnic Group, to its share."""
    habits: Habits


FINDING_RATES = {
    "hyperinflation": 0.08,
    "interstitial_lung_disease_pattern": 0.07,
    "atelectasis": 0.14,
    "costophrenic_angle_blunting": 0.07,
    "pleural_effusion": 0.13,
    "pneumothorax": 0.06,
    "adenopathy": 0.05,
    "enlarged_pulmonary_artery": 0.06,
    "arterial_calcification": 0.10,
    "osseous_abnormalities": 0.09,
    "rib_fracture": 0.06,
    "bronchial_wall_thickening": 0.06,
    "hernia": 0.05,
    "subcutaneous_air": 0.05,
    "opacity": 0.13,
    "vascular_congestion": 0.07,
    "cardiomegaly": 0.14,
    "diaphragm_elevation": 0.06,
    "pulmonary_edema": 0.07,
}
DEVICE_RATES = {
    "ETT": 0.17,
    "TT": 0.09,
    "NGT": 0.18,
    "SGC": 0.10,
    "CT": 0.14,
    "MD": 0.10,
    "IABP": 0.07,
    "IJ": 0.17,
    "PICC": 0.14,
    "SC": 0.11,
}
HOSPITALS = {
    "own": Hospital(
        scanners={"FUJIFILM": 0.38, "Carestream": 0.27, "GE": 0.17, "SIEMENS": 0.10, "Philips": 0.08},
        age_mean=58,
        age_std=17,
        female_share=0.48,
        inpatient_share=0.58,
        finding_rates=FINDING_RATES,
        device_rates=DEVICE_RATES,
        incorrect_rate=0.14,
        missing_view_rate=0.06,
        ethnic_groups={"White": 0.72, "Black/Afr. Amer.": 0.12, "Hispanic/Latino": 0.08, "Asian": 0.06, "Declined": 0.02},
        habits=Habits(0.88, 0.80, 0.60, 0.10, 0.55, terse=False),
    ),
    "public": Hospital(
        scanners={"Canon": 0.35, "SIEMENS": 0.30, "Philips": 0.25, "GE": 0.10},
        age_mean=48,
        age_std=18,
        female_share=0.44,
        inpatient_share=0.30,
        finding_rates={key: rate * (0.75 if index % 3 else 1.15) for index, (key, rate) in enumerate(FINDING_RATES.items())},
        device_rates={key: rate * 0.7 for key, rate in DEVICE_RATES.items()},
        incorrect_rate=0.10,
        missing_view_rate=0.25,
        ethnic_groups={"W": 0.6, "B": 0.2, "ASIAN": 0.12, "": 0.08},
        habits=Habits(0.80, 0.55, 0.35, 0.15, 0.35, terse=True),
    ),
}
