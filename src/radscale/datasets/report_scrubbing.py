"""Take out of a report what identifies somebody, and leave what the image shows. Rules only: pure functions of a text.

Each find becomes a token that says its kind, such as `[DATE]`. Dates are not shifted, unlike those of the manifest: of 3/4/12
nobody knows the order, and a date that was read wrongly would be a wrong date that nobody sees. Times of day go with them.
The rules and their measured recall: docs/ingest.md.
"""

import re
from collections import Counter
from collections.abc import Iterable

KINDS = ("KNOWN", "CONTACT", "NUMBER", "DATE", "TIME", "AGE", "NAME", "PLACE")
"""KNOWN: a name or number of this patient's own header or report row. CONTACT: e-mail, URL, phone, fax, pager."""

_MONTHS = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|m\u00e4rz|apr(?:il)?|june?|juni|july?|juli|aug(?:ust)?|sept?(?:ember)?"
    r"|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)\b\.?"
)
_MONTHS_AND_MAY = rf"(?:{_MONTHS}|ma[iy]\b)"
"""In a report, "3. May represent" is no date: May needs a year beside it, or to be written as in "May 5"."""
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th|\.)?"
_YEAR = r"(?:(?:19|20)\d{2}|'?\d{2})\b"
_UNIT = r"(?!\s*(?:hours?|hrs?|h|ml|cc|mg|mcg|g|kg|units?|mm|cm|%)\b)"
_STUDY = r"(?:radiographs?|films?|exam(?:ination)?s?|stud(?:y|ies)|CT|CXR|x-?rays?|comparison|prior|scans?)"

# Words that begin with a capital beside "Dr.", "discussed with" or "Hospital" and name nobody.
_NO_NAME = (
    r"(?!(?:The|This|That|An?|At|In|On|From|For|No|Not|And|Of|To|By|ICU|MICU|SICU|CCU|ED|ER|OR|PACU|NICU|Nurs\w+|Team|Referring"
    r"|Ordering|Emergency|Surgery|Medicine|Patient|Clinical\w*|Chest|Findings|Impression|Indication|Comparison|History|Views?|PA"
    r"|AP|CT|MRI?|Lungs?|Heart|Lateral|Radiology|Physician|Dr)\b)"
)
_WORD = rf"{_NO_NAME}[^\W\d_a-z\u00df-\u00ff][\w'\u2019-]*"
_LAST = rf"{_NO_NAME}[^\W\d_a-z\u00df-\u00ff][\w'\u2019-]+"
_PARTICLE = r"(?:(?:von|van|de[rn]?|di|la|al|bin|du|del)[\s-]+)*"
_PERSON = rf"(?:{_NO_NAME}[A-Z]\.[^\S\n]*)*{_PARTICLE}{_LAST}(?:,?[^\S\n]+(?:[A-Z]\.?[^\S\n]+)?{_PARTICLE}{_LAST}){{0,2}}"
_DEGREE = (
    r"(?:M\.?\s?D|D\.?\s?O|R\.?\s?N|P\.?\s?A(?:-C)?|MBBS|FRCR|FACR|Ph\.?D|N\.?P|ARNP|CRNP|R\.?T)\b"
    r"(?!\s+(?:and|view|chest|lateral))\.?"
)
_SURNAME_FIRST = rf"{_LAST},[^\S\n]+{_LAST}(?:[^\S\n]+[A-Z]\b\.?)?"
_WRITER = (
    r"(?i:(?:discussed|communicated|relayed|called|conveyed|reviewed|reported|dictated|read|interpreted|signed|transcribed|verified"
    r"|approved|authenticated|attested|finali[sz]ed|notified|paged|performed|ordered|requested)"
    r"(?:[^\S\n]+(?:directly|verbally|electronically))?(?:[^\S\n]+(?:with|to|by))?:?[^\S\n]+)"
)
_LABEL = (
    r"(?i:(?:patient(?:'s)?(?:[^\S\n]+name)?|pt|name|(?:referring|ordering|attending|requesting)(?:[^\S\n]+(?:physician|provider|doctor))?"
    r"|physician|provider|radiologist|resident|attending|technologist|signature|dictator|transcriptionist)[^\S\n]*:[^\S\n]*)"
)
_PLACE_END = (
    r"(?:Hospitals?|Clinics?|Medical\s+Cent(?:er|re)|Health\s+(?:System|Cent(?:er|re)|Care)|Healthcare|Infirmary|Nursing\s+Home"
    r"|Imaging\s+Cent(?:er|re)|Cancer\s+Cent(?:er|re)|Klinikum|Krankenhaus|Hospice|Rehab(?:ilitation)?(?:\s+Cent(?:er|re))?|University)"
)
_STREET = r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Court|Ct|Parkway|Pkwy|Way|Place|Highway|Hwy)\b\.?"
# At least three characters: in "limited exam. 2. No effusion" the number counts sentences.
_ID = r"(?=[\w-]{3})(?=[\w-]*\d)[A-Z]{0,5}[-#]?\d[\w-]*"

RULES: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (kind, re.compile(pattern), replacement)
    for kind, pattern, replacement in (
        ("CONTACT", r"[\w.+-]+@[\w-]+\.[\w.]*\w", "[CONTACT]"),
        ("CONTACT", r"(?i)\b(?:https?://|www\.)\S*[\w/]", "[CONTACT]"),
        (
            "CONTACT",
            r"(?i)\b((?:tele?phone|phone|tel|cell|mobile|fax|pager|paged at|beeper|call(?:\s+back)?(?:\s+at)?"
            r"|ext(?:ension)?)\b\.?\s*"
            r"(?:number|no\.?|nr\.?|#)?\s*(?:is|at|:)?\s*)[#x(+]?\d[\d\s().-]{2,16}\d",
            r"\1[CONTACT]",
        ),
        ("CONTACT", r"(?<![\w.])(?:\+?1[-.\s])?\(?\d{3}\)?[-.\s]\s?\d{3}[-.\s]\d{4}\b|\+\d[\d\s()/-]{7,}\d", "[CONTACT]"),
        (
            "NUMBER",
            r"(?i)\b((?:mrn|med(?:ical)?\.?\s+rec(?:ord)?|record|acc(?:ession)?|patient\s+id|pat\.?\s*id|id|case|ssn|social\s+security"
            r"|visit|encounter|account|acct|order|job|document|exam|study\s+id|insurance|policy|license|npi|room|bed)\b\.?\s*"
            rf"(?:number|num|no\.?|nr\.?|id|#)?\s*(?:is\b)?[:#]?\s*){_ID}",
            r"\1[NUMBER]",
        ),
        (
            "DATE",
            r"\b(?:19|20)\d{2}([-/.])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])\b|\b(?:19|20)\d{2}[01]\d[0-3]\d\b",
            "[DATE]",
        ),
        (
            "DATE",
            r"(?<![\w./-])(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|[12]\d|3[01])\1(?:(?:19|20)\d{2}|\d{2})\b(?![./]\d)"
            + _UNIT,
            "[DATE]",
        ),
        (
            "DATE",
            rf"(?i)\b{_DAY}(?:\s+of)?[\s./-]*{_MONTHS_AND_MAY},?[\s./-]*{_YEAR}|\b{_MONTHS_AND_MAY}[\s./-]*{_DAY}[\s,./-]+"
            rf"(?:19|20|')\d{{2}}(?:\d{{2}})?\b|\b{_MONTHS_AND_MAY},?(?:\s+of)?[\s-]*(?:(?:19|20)\d{{2}}|'\d{{2}})\b"
            rf"|\b{_DAY}(?:\s+of)?[\s-]*{_MONTHS}|\b{_MONTHS}\s*{_DAY}(?![\w])",
            "[DATE]",
        ),
        ("DATE", r"\bM(?:ay|AY)\s+(?:[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?\b" + _UNIT, "[DATE]"),
        ("DATE", r"(?<![\w.-])(?:[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?\s+(?:of\s+)?May\b", "[DATE]"),
        ("DATE", r"(?<![\w/.-])(?:0?[1-9]|1[0-2])[/-](?:19|20)\d{2}\b", "[DATE]"),
        (
            "DATE",
            rf"(?i)\b((?:on|dated?|{_STUDY}(?:\s+(?:of|from|dated|on))?|compared\s+(?:to|with)|since)\s+)"
            r"(?:0?[1-9]|1[0-2])[/-](?:0?[1-9]|[12]\d|3[01])\b(?![/.%-]?\d)(?!\s*(?:scale|ribs?|murmur|pain|cm|mm|lumens?)\b)",
            r"\1[DATE]",
        ),
        ("DATE", r"(?i)\b((?:in|since|from|of|year|circa)\s+)(?:19|20)\d{2}\b(?![-./:]\d)" + _UNIT, r"\1[DATE]"),
        ("TIME", r"(?i)\b[012]?\d:[0-5]\d(?::[0-5]\d)?(?:\s*[ap]\.?m\b\.?)?|\b(?:1[0-2]|0?[1-9])\s*[ap]\.?m\b\.?", "[TIME]"),
        ("TIME", r"(?i)\b(at\s+)[012]\d[0-5]\d(?:\s*(?:hours|hrs|h))?\b(?!\s*(?:ml|cc|mg|units))", r"\1[TIME]"),
        (
            "AGE",
            r"(?i)\b(?:9\d|1[012]\d|ninety(?:[\s-]\w+)?)[\s-]*(?:years?|yrs?|y)(?:[\s/.-]*(?:of\s+age|olds?|o))?\b"
            r"|\b(?:9\d|1[012]\d)\s*/?(?:yo|y/o)(?=[fm]?\b)",
            "[AGE OVER 89]",
        ),
        ("AGE", r"(?i)\b(aged?:?\s+(?:of\s+)?)(?:9\d|1[012]\d)\b", r"\1[AGE OVER 89]"),
        ("NUMBER", r"\b\d{3}-\d{2}-\d{4}\b|\b\d{6,}\b" + _UNIT, "[NUMBER]"),
        ("NUMBER", r"\b[A-Z]{1,5}-?\d{5,}(?:-\d+)*\b", "[NUMBER]"),
        (
            "NAME",
            rf"\b(?:Drs?|Mr|Mrs|Ms|Miss|Prof|Herrn?|Frau)\b\.?[^\S\n]+{_PERSON}|\b(?:DR|MR|MRS|MS)\.[^\S\n]+{_PERSON}"
            rf"|\b(?:Doctor|Nurse|NURSE|Professor)[^\S\n]+{_PERSON}|\b(?:drs?|mrs?|ms)\.[^\S\n]+[a-z][\w'-]+",
            "[NAME]",
        ),
        ("NAME", rf"\b(?:{_SURNAME_FIRST}|{_PERSON})(?:,[^\S\n]*|[^\S\n]+){_DEGREE}(?:,?[^\S\n]*{_DEGREE})*", "[NAME]"),
        ("NAME", rf"\b({_WRITER}|{_LABEL})(?:{_SURNAME_FIRST}|{_PERSON})", r"\1[NAME]"),
        ("NAME", rf"\b({_WRITER}|{_LABEL}|(?i:initials:?[^\S\n]+))[A-Z]\.?[A-Z]\.?(?:[A-Z]\.?)?(?![\w/])", r"\1[NAME]"),
        ("NAME", r"(?m)^[^\S\n]*/?[A-Z]{2,3}[/:][A-Za-z]{2,3}/?[^\S\n]*$|/[A-Z]{2,3}/", "[NAME]"),
        ("NAME", r"(?:/s/|//s//)[^\S\n]*" + _PERSON, "[NAME]"),
        ("PLACE", rf"\b\d{{1,5}}[^\S\n]+(?:[NSEW]\.?[^\S\n]+)?(?:{_WORD}[^\S\n]+){{1,3}}{_STREET}", "[PLACE]"),
        ("PLACE", r"(?i:\bp\.?\s?o\.?\s+box\s+\d+)|\b\w+(?:stra\u00dfe|strasse|gasse)\s+\d+\w?", "[PLACE]"),
        ("PLACE", rf"\b(?:{_WORD}[^\S\n]+(?:of[^\S\n]+)?){{1,4}}{_PLACE_END}\b", "[PLACE]"),
        ("PLACE", rf"\b(?:Hospital|University|Klinikum|Clinic)[^\S\n]+(?:of[^\S\n]+)?{_WORD}(?:[^\S\n]+{_WORD})?", "[PLACE]"),
        ("PLACE", rf"\b(?:St|Saint|Mount|Mt)\b\.?[^\S\n]+{_LAST}", "[PLACE]"),
        ("PLACE", rf"\b{_LAST}(?:[^\S\n]+{_LAST})?,[^\S\n]+[A-Z]{{2}}[^\S\n]+\d{{5}}(?:-\d{{4}})?\b", "[PLACE]"),
        (
            "PLACE",
            rf"\b((?i:transferred|transfer|resident\s+of|lives|living|resides|residing|travel\w*|visiting|arrived|immigrated|native)"
            rf"(?:[^\S\n]+(?:from|to|in|of))?[^\S\n]+){_LAST}(?:[^\S\n]+{_LAST})?(?:,[^\S\n]+[A-Z]{{2}}\b)?",
            r"\1[PLACE]",
        ),
    )
)


def scrub_report(text: str, known: Iterable[str] = ()) -> tuple[str, Counter[str]]:
    """A report without what identifies, and how many finds there were of each of `KINDS`.

    Args:
        text: the report.
        known: names and numbers of this patient, from the header and the report's row; found in any case as whole words.
    """
    found: Counter[str] = Counter()
    lower = text.lower()
    for value in sorted({value for value in known if value}, key=lambda value: (-len(value), value)):
        if value.lower() in lower:  # compiling a pattern takes longer than everything else
            text, count = re.subn(rf"(?<!\w){re.escape(value)}(?!\w)", "[REMOVED]", text, flags=re.IGNORECASE)
            found["KNOWN"] += count
    for kind, pattern, replacement in RULES:
        text, count = pattern.subn(replacement, text)
        found[kind] += count
    return text, +found
