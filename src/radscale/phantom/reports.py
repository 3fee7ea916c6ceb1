"""A radiologist's report on a phantom study: from what is in the image, through habits of mentioning, omitting and hedging."""

from dataclasses import dataclass

import numpy as np

from radscale.phantom.devices import Device
from radscale.phantom.findings import Finding


@dataclass(frozen=True)
class Habits:
    """How a hospital reports."""

    finding_mention_rate: float
    """Share of findings that are mentioned; faint ones are missed more often."""
    device_mention_rate: float
    tip_mention_rate: float
    hedge_rate: float
    negative_mention_rate: float
    """How often absent common findings are denied in so many words."""
    terse: bool


SIDES = {-1: "right", 1: "left", 0: ""}

# Ways to state a finding; {side} is "right " or "left " or empty, {size} small, moderate or large.
POSITIVE: dict[str, tuple[str, ...]] = {
    "hyperinflation": (
        "The lungs are hyperinflated.",
        "Hyperexpanded lungs with flattened diaphragms.",
        "Hyperinflation of both lungs.",
    ),
    "interstitial_lung_disease_pattern": (
        "Diffuse prominent interstitial markings in the lower lungs.",
        "Reticular interstitial pattern at both bases.",
        "Coarse interstitial markings suggesting fibrosis.",
    ),
    "atelectasis": (
        "{Side}basilar atelectasis.",
        "Subsegmental atelectasis at the {side}lung base.",
        "Linear atelectasis in the {side}lower lobe.",
    ),
    "costophrenic_angle_blunting": ("Blunting of the {side}costophrenic angle.", "The {side}costophrenic angle is blunted."),
    "pleural_effusion": (
        "{Size} {side}pleural effusion.",
        "There is a {size} {side}pleural effusion.",
        "{Side}pleural effusion, {size}.",
    ),
    "pneumothorax": (
        "{Size} {side}pneumothorax.",
        "There is a {size} {side}apical pneumothorax.",
        "{Side}pneumothorax is present.",
    ),
    "adenopathy": ("Bilateral hilar adenopathy.", "Enlarged hilar lymph nodes.", "Hilar lymphadenopathy."),
    "enlarged_pulmonary_artery": (
        "Enlarged main pulmonary artery.",
        "Prominent pulmonary artery.",
        "The pulmonary trunk is enlarged.",
    ),
    "arterial_calcification": (
        "Atherosclerotic calcification of the aortic arch.",
        "Calcified thoracic aorta.",
        "Aortic knob calcifications.",
    ),
    "osseous_abnormalities": (
        "Scoliosis of the thoracic spine.",
        "Degenerative changes with scoliosis of the spine.",
        "Curvature of the thoracic spine.",
    ),
    "rib_fracture": ("{Side}rib fractures.", "Displaced {side}rib fracture.", "Fracture of a {side}lateral rib."),
    "bronchial_wall_thickening": ("Bronchial wall thickening.", "Peribronchial cuffing.", "Mild peribronchial thickening."),
    "hernia": ("Hiatal hernia.", "Retrocardiac air-fluid level consistent with hiatal hernia.", "{Size} hiatal hernia."),
    "subcutaneous_air": (
        "Subcutaneous emphysema along the {side}chest wall.",
        "{Side}chest wall subcutaneous air.",
        "Subcutaneous gas on the {side}side.",
    ),
    "opacity": ("{Side}lung opacity.", "Patchy airspace opacity in the {side}lung.", "Focal consolidation in the {side}lung."),
    "vascular_congestion": (
        "Pulmonary vascular congestion.",
        "Engorged pulmonary vasculature.",
        "Cephalization of the pulmonary vessels.",
    ),
    "cardiomegaly": ("Cardiomegaly.", "The heart is enlarged.", "{Size} cardiomegaly."),
    "diaphragm_elevation": ("Elevated {side}hemidiaphragm.", "Elevation of the {side}hemidiaphragm."),
    "pulmonary_edema": ("Pulmonary edema.", "Interstitial pulmonary edema.", "Perihilar haze consistent with pulmonary edema."),
}
HEDGED: dict[str, tuple[str, ...]] = {
    "atelectasis": ("Possible {side}basilar atelectasis.",),
    "pleural_effusion": ("Possible small {side}pleural effusion.", "A small {side}pleural effusion cannot be excluded."),
    "pneumothorax": ("Questionable tiny {side}apical pneumothorax.",),
    "opacity": ("{Side}basilar opacity may be present.", "Possible {side}lung infiltrate."),
    "cardiomegaly": ("Heart size is borderline.",),
    "pulmonary_edema": ("Possible mild pulmonary edema.",),
    "vascular_congestion": ("Possible mild vascular congestion.",),
    "rib_fracture": ("Possible {side}rib fracture.",),
    "adenopathy": ("Possible hilar adenopathy.",),
}
NEGATIVE: dict[str, tuple[str, ...]] = {
    "pleural_effusion": ("No pleural effusion.", "No effusion is seen."),
    "pneumothorax": ("No pneumothorax.", "There is no pneumothorax."),
    "opacity": ("The lungs are clear.", "No focal consolidation."),
    "cardiomegaly": ("Heart size is normal.", "The heart is normal in size."),
    "pulmonary_edema": ("No pulmonary edema.",),
    "rib_fracture": ("No displaced rib fracture.",),
    "vascular_congestion": ("Pulmonary vasculature is normal.",),
    "osseous_abnormalities": ("The osseous structures are intact.",),
}
DEVICE_NAMES: dict[str, tuple[str, ...]] = {
    "ETT": ("Endotracheal tube", "ET tube", "ETT"),
    "TT": ("Tracheostomy tube", "Tracheostomy"),
    "NGT": ("Nasogastric tube", "NG tube", "Enteric tube"),
    "SGC": ("Swan-Ganz catheter", "{Side}internal jugular Swan-Ganz catheter", "Pulmonary artery catheter"),
    "CT": ("{Side}chest tube", "{Side}pleural drain", "{Side}thoracostomy tube"),
    "MD": ("Mediastinal drain", "Mediastinal drainage tube"),
    "IABP": ("Intra-aortic balloon pump", "IABP"),
    "IJ": ("{Side}internal jugular central venous catheter", "{Side}IJ central line", "{Side}IJ catheter"),
    "PICC": ("{Side}PICC", "{Side}PICC line", "{Side}upper extremity PICC"),
    "SC": ("{Side}subclavian central venous catheter", "{Side}subclavian line", "{Side}chest port-a-cath"),
}
REMOVED: dict[str, str] = {
    "ETT": "Interval removal of the endotracheal tube.",
    "NGT": "The nasogastric tube has been removed.",
    "CT": "Interval removal of the {side}chest tube.",
    "IJ": "The {side}internal jugular catheter has been removed.",
    "SGC": "Interval removal of the Swan-Ganz catheter.",
}
INDICATIONS = {
    True: (
        "Respiratory failure.",
        "Line placement.",
        "Postoperative day 2.",
        "Shortness of breath, intubated.",
        "Follow up effusion.",
        "Hypoxia.",
    ),
    False: ("Cough.", "Chest pain.", "Preoperative evaluation.", "Fever.", "Annual examination.", "Dyspnea on exertion."),
}


def write_report(
    rng: np.random.Generator,
    habits: Habits,
    findings: list[Finding],
    devices: list[Device],
    before: list[Finding] | None,
    devices_before: list[Device],
    inpatient: bool,
    views: str,
) -> str:
    """The report's text with its sections. What it says of the image follows from `findings` and `devices` alone."""
    body = [*_device_sentences(rng, habits, devices, devices_before), *_finding_sentences(rng, habits, findings, before)]
    impression = _impression(rng, habits, findings, devices, body)
    sections = [
        ("INDICATION", str(rng.choice(INDICATIONS[inpatient]))),
        ("COMPARISON", "None." if before is None else str(rng.choice(("Prior chest radiograph.", "Previous study.")))),
    ]
    if not habits.terse:
        sections.append(("TECHNIQUE", f"{views} of the chest."))
    if body:
        sections.append(("FINDINGS", " ".join(body)))
    sections.append(("IMPRESSION", impression))
    return "\n".join(f"{name}: {text}" for name, text in sections)


def _fill(rng: np.random.Generator, templates: tuple[str, ...], side: int, strength: float = 0.5) -> str:
    template = templates[int(rng.integers(len(templates)))]
    word = SIDES[side] + " " if side else ""
    size = "small" if strength < 0.4 else "moderate" if strength < 0.75 else "large"
    if "cardiomegaly" in template:
        size = {"small": "mild", "moderate": "moderate", "large": "marked"}[size]
    text = template.format(side=word, Side=word.capitalize(), size=size, Size=size.capitalize())
    return text[0].upper() + text[1:]


def _finding_sentences(
    rng: np.random.Generator, habits: Habits, findings: list[Finding], before: list[Finding] | None
) -> list[str]:
    old = {finding.key for finding in before or ()}
    present = {finding.key for finding in findings}
    sentences = []
    for finding in findings:
        if finding.strength == 0:
            continue
        mention = habits.finding_mention_rate * (0.75 + 0.3 * finding.strength)
        if rng.random() > mention:
            continue
        hedged = HEDGED.get(finding.key)
        if hedged and rng.random() < habits.hedge_rate * (1.6 - finding.strength):
            sentences.append(_fill(rng, hedged, finding.side, finding.strength))
            continue
        sentence = _fill(rng, POSITIVE[finding.key], finding.side, finding.strength)
        if finding.key in old and rng.random() < 0.4:
            ending = str(rng.choice((", unchanged.", ", stable.", ", similar to prior.")))
            sentence = sentence.removesuffix(".") + ending
        sentences.append(sentence)
    gone = [key for key in ("pleural_effusion", "pneumothorax", "pulmonary_edema") if key in old - present]
    sentences += [f"Previously seen {key.replace('_', ' ')} has resolved." for key in gone if rng.random() < 0.5]
    for key, templates in NEGATIVE.items():
        blocked = key in present or (
            key == "opacity" and present & {"atelectasis", "pulmonary_edema", "interstitial_lung_disease_pattern"}
        )
        if not blocked and rng.random() < habits.negative_mention_rate:
            sentences.append(templates[int(rng.integers(len(templates)))])
    return [sentences[index] for index in rng.permutation(len(sentences))]


def _device_sentences(rng: np.random.Generator, habits: Habits, devices: list[Device], before: list[Device]) -> list[str]:
    sentences = []
    for device in devices:
        if rng.random() > habits.device_mention_rate:
            continue
        name = _fill(rng, DEVICE_NAMES[device.code], device.side)
        if rng.random() < habits.tip_mention_rate or device.placement == "incorrect":
            sentences.append(_tip_sentence(rng, name, device))
        else:
            sentences.append(f"{name} {rng.choice(('in place', 'in stable position', 'is noted', 'is present'))}.")
    present = {device.code for device in devices}
    for device in before:
        if device.code not in present and device.code in REMOVED and rng.random() < habits.device_mention_rate * 0.7:
            word = SIDES[device.side] + " " if device.side else ""
            sentences.append(REMOVED[device.code].format(side=word))
    return sentences


def _tip_sentence(rng: np.random.Generator, name: str, device: Device) -> str:
    tip = device.tip
    if device.code == "CT" and "outside" in tip:
        return f"{name} with side port outside the rib cage; repositioning is recommended."
    if device.code == "NGT" and tip.startswith("coiled"):
        return f"{name} is coiled in the esophagus and should be repositioned."
    if device.code in ("TT", "MD"):
        return f"{name} in place."
    measured = tip[0].isdigit() or tip.startswith(("above", "below"))
    verb = str(rng.choice(("tip is", "terminates", "tip is located"))) if measured else ""
    where = tip if measured else f"{rng.choice(('tip in the', 'terminates in the', 'tip projects over the'))} {tip}"
    sentence = f"{name} {verb} {where}".replace("  ", " ") if measured else f"{name} {where}"
    advice = ""
    if device.placement == "incorrect" and rng.random() < 0.7:
        advice = str(rng.choice(("; recommend repositioning", ", malpositioned")))
    return sentence + advice + "."


def _impression(
    rng: np.random.Generator, habits: Habits, findings: list[Finding], devices: list[Device], body: list[str]
) -> str:
    """The main points again, or that there are none."""
    notable = [
        sentence
        for sentence in body
        if not sentence.startswith(("No ", "There is no", "The lungs are clear", "Heart size is normal"))
    ]
    notable = [s for s in notable if "normal" not in s and "intact" not in s]
    if not notable:
        if findings or devices:
            return str(rng.choice(("No significant change.", "Stable examination.")))
        return str(rng.choice(("No acute cardiopulmonary disease.", "No acute cardiopulmonary abnormality.", "Normal chest.")))
    count = 1 if habits.terse else min(len(notable), int(rng.integers(1, 4)))
    chosen = [notable[index] for index in sorted(rng.permutation(len(notable))[:count])]
    if len(chosen) == 1:
        return chosen[0]
    return " ".join(f"{number}. {sentence}" for number, sentence in enumerate(chosen, start=1))
