"""Rules against sentences as radiologists write them, and against the phantom's truth."""

import math
from typing import Any

import pyarrow as pa
import pytest

from radscale.extraction import agreement, extract_findings, extract_lines_and_tubes, split_sections
from radscale.extraction.extract import study_labels


def findings(text: str) -> dict[str, Any]:
    """What is said; a finding that is not mentioned is nan."""
    found = extract_findings({"findings": text})
    return {key: value for key, value in found.items() if key != "no_finding" and str(value) != "nan"}


def devices(text: str) -> list[tuple[str, str, str]]:
    found = extract_lines_and_tubes({"findings": text})
    return [(str(d["type"]), str(d["side"]), str(d["placement"])) for d in found if not d["removed"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "No pneumothorax or pleural effusion. Heart size is enlarged.",
            {"pneumothorax": 0, "pleural_effusion": 0, "cardiomegaly": 1},
        ),
        ("Possible small left pleural effusion.", {"pleural_effusion": "uncertain"}),
        ("Small effusion cannot be excluded.", {"pleural_effusion": "uncertain"}),
        ("Previously seen pneumothorax has resolved.", {"pneumothorax": 0}),
        ("No evidence of pneumothorax. Bibasilar atelectasis.", {"pneumothorax": 0, "atelectasis": 1}),
        ("The heart is normal in size.", {"cardiomegaly": 0}),
        ("Interval development of a large right pneumothorax.", {"pneumothorax": 1}),
        ("Large hiatal hernia.", {"hernia": 1}),
        ("No free air, effusion, or focal opacity.", {"pleural_effusion": 0, "opacity": 0}),
        ("Mild pulmonary edema without pleural effusion.", {"pulmonary_edema": 1, "pleural_effusion": 0}),
        ("Opacities may be secondary to pulmonary edema.", {"opacity": 1, "pulmonary_edema": "uncertain"}),
        ("This could be due to edema.", {"pulmonary_edema": "uncertain"}),
        ("Cardiomegaly due to effusion.", {"cardiomegaly": 1, "pleural_effusion": 1}),
        ("Pulmonary edema difficult to entirely exclude.", {"pulmonary_edema": "uncertain"}),
        ("However small pleural effusions suspected.", {"pleural_effusion": "uncertain"}),
        ("Suspected hernia. Effusion is again seen.", {"hernia": "uncertain", "pleural_effusion": 1}),
        ("", {}),
    ],
)
def test_findings_with_negation_hedging_and_history(text: str, expected: dict[str, Any]) -> None:
    assert findings(text) == expected


def test_what_is_not_mentioned_is_nan_and_a_report_without_findings_has_no_finding() -> None:
    found = extract_findings({"findings": "The lungs are clear."})
    assert math.isnan(float(found["hernia"]))
    assert found["no_finding"] == 1
    assert extract_findings({"findings": "Hernia."})["no_finding"] == 0
    assert extract_findings({"findings": "Possible hernia."})["no_finding"] == "uncertain"


def test_indications_are_not_evidence() -> None:
    sections = split_sections("INDICATION: Rule out pneumothorax; effusion.\nFINDINGS: Normal.\nIMPRESSION: No change.")
    assert sections["indication"] == "Rule out pneumothorax; effusion."
    assert math.isnan(float(extract_findings(sections)["pneumothorax"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Endotracheal tube tip 4 cm above the carina.", [("ETT", "N/A", "correct")]),
        ("ET tube in the right main bronchus.", [("ETT", "N/A", "incorrect")]),
        ("ET and NG tubes are in standard position.", [("ETT", "N/A", "correct"), ("NGT", "N/A", "correct")]),
        ("Right IJ catheter tip in the right atrium, should be withdrawn.", [("IJ", "right", "incorrect")]),
        ("Left PICC terminates in the axilla.", [("PICC", "left", "incorrect")]),
        ("Left chest tube in place.", [("CT", "left", "correct")]),
        ("No endotracheal tube.", []),
        ("The nasogastric tube has been removed.", []),
        ("Swan-Ganz catheter with tip in the right pulmonary artery.", [("SGC", "N/A", "correct")]),
        ("Intra-aortic balloon pump in good position.", [("IABP", "N/A", "correct")]),
        ("Tracheostomy tube in place.", [("TT", "N/A", "correct")]),
        ("Clear lungs.", []),
    ],
)
def test_lines_and_tubes(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert devices(text) == expected


def test_a_removed_device_is_an_entry_without_placement_and_a_negative_label() -> None:
    (entry,) = extract_lines_and_tubes({"findings": "ET tube has been removed."})
    assert (entry["removed"], entry["placement"]) == (True, "N/A")
    assert study_labels({"findings": "ET tube has been removed."})["ETT"] == "negative"


def test_labels_are_called_rules() -> None:
    assert {d["engine"] for d in extract_lines_and_tubes({"impression": "NG tube in the stomach."})} == {"rules"}


def test_agreement_counts() -> None:
    def table(states: dict[str, str]) -> pa.Table:
        rows = [{"level": "study", "id": i, "task": "x", "state": s, "engine": "e"} for i, s in states.items()]
        return pa.Table.from_pylist(rows)

    truth = table({"a": "positive", "b": "positive", "c": "negative", "d": "negative", "e": "positive"})
    said = table({"a": "positive", "b": "negative", "c": "positive", "d": "negative", "e": "uncertain"})
    (row,) = agreement(said, truth)
    assert (row["precision"], row["recall"], row["f1"]) == (0.5, 0.5, 0.5)
    assert (row["num_compared"], row["num_predicted_uncertain"]) == (4, 1)
