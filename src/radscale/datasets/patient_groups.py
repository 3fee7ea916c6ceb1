"""Free words of a hospital about its patients, brought into closed lists: only a word of the list is kept, so that a field in
which somebody wrote a name tells nobody's."""

import re
from collections.abc import Mapping

SMALLEST_CELL = 10
"""Fewer people, or studies, than these are not told apart in what is counted: they may be known."""

ETHNICITIES = {
    "hispanic": r"hispanic|latin[oax]?",
    "black": r"black|african",
    "white": r"white|caucasian|european",
    "asian": r"asian?|chinese|japanese|korean|vietnamese|filipino|indian subcontinent|east indian|far east",
    "native or pacific islander": r"native|american indian|alaska|hawaiian|pacific|aboriginal|m[aā]ori|inuit|first nations",
    "several": r"multi\w*|mixed|two or more|more than one|several",
}
"""Group -> words, the first that fits."""
ETHNICITY_CODES = {"h": "hispanic", "b": "black", "w": "white", "c": "white", "a": "asian"}
NOT_HISPANIC = re.compile(r"(?:\bnot|\bnon)[\s-]*(?:of\s+)?(?:hispanic|latin[oax]?)(?:\s*(?:/|or)\s*latin[oax]?)?")

DEPARTMENTS = {
    "emergency medicine": r"emergency|emerg|a ?& ?e|ed|er|casualty|trauma (?:room|bay)|notaufnahme|urgenc\w*",
    "intensive care": r"\w?icu|ccu|intensive|intensiv\w*|critical care|reanimation",
    "surgery": r"surg\w*|\w*surgery|\w*chirurg\w*|transplant\w*|trauma",
    "paediatrics": r"pa?ediat\w*|child\w*|neonat\w*|newborn|nursery",
    "obstetrics and gynaecology": r"obstet\w*|gyn\w*|ob ?/? ?gyn|maternity|labou?r",
    "oncology": r"\w*oncolog\w*|cancer|ha?ematolog\w*|chemo\w*",
    "cardiology": r"[ck]ardio\w*|cardiac|heart",
    "pulmonology": r"pulmo\w*|pneumo\w*|respirat\w*|chest|thora\w*",
    "neurology": r"neuro\w*|stroke",
    "orthopaedics": r"ortho\w*|spine|fracture",
    "nephrology and urology": r"nephro\w*|urolog\w*|dialysis|renal",
    "family medicine": r"family",
    "general practice": r"general practice|general practitioner|gp|primary care",
    "internal medicine": r"internal|internist\w*|general medicine|innere|gastro\w*|endocrin\w*|infectious|rheumat\w*"
    r"|geriatr\w*|medicine",
    "anaesthesiology": r"ana?esth\w*",
    "psychiatry": r"psych\w*",
    "radiology": r"radiolog\w*|x ?-? ?rays?|imaging|diagnostics?|r[oö]ntgen",
    "outpatient clinic": r"out ?-? ?patient\w*|opd|ambulat\w*|clinics?",
}
"""Department -> words, the first that fits."""
NOT_STATED = re.compile(
    r".*unknown|unk|u|n/?a|none|not .*|un(?:able|specified|available).*|declined?|.* declined.*|refused|-+|\?+|null"
)


def known_ethnicity(text: str, own: Mapping[str, str] | None = None) -> str | None:
    """A group of `ETHNICITIES` or `other`; None where nothing is stated, or only which group it is not.

    Args:
        text: e.g. Ethnic Group (0010,2160), which has no closed list of its own (PS3.3 C.7.1.1).
        own: values of this hospital in small letters -> group, which go first and may name other groups.
    """
    words = _plain(text)
    if own and words in own:
        return own[words]
    without = NOT_HISPANIC.sub("", words).strip(" ,-/")
    return ETHNICITY_CODES.get(without) or _first_of(ETHNICITIES, without)


def known_department(text: str, own: Mapping[str, str] | None = None) -> str | None:
    """A department of `DEPARTMENTS` or `other`; None where nothing is stated.

    Args:
        text: e.g. Requesting Service (0032,1033) or Institutional Department Name (0008,1040).
        own: values of this hospital in small letters -> department, which go first and may name others.
    """
    words = _plain(text)
    return own[words] if own and words in own else _first_of(DEPARTMENTS, words)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[_^.;:()\[\]]", " ", text.lower()).split())


def _first_of(groups: Mapping[str, str], words: str) -> str | None:
    if not words or NOT_STATED.fullmatch(words):
        return None
    return next((name for name, pattern in groups.items() if re.search(rf"\b(?:{pattern})\b", words)), "other")
