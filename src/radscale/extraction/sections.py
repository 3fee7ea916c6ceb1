"""Sections of a radiology report."""

import re
from collections.abc import Mapping
from typing import Any

from radscale.errors import InputError

SECTIONS = ("indication", "comparison", "technique", "findings", "impression", "addendum", "remainder")
ENGINES = ("rules",)

_HEADERS = {
    "indication": (
        r"(?:clinical|brief|patient|relevant)?\s*(?:indications?|history)(?:\s*(?:and|/|&)\s*(?:history|indications?))?"
        r"|reason\s+for\s+(?:the\s+)?(?:exam(?:ination)?|study|visit)|clinical\s+(?:information|data|statement|question|details)"
    ),
    "comparison": r"comparisons?(?:\s+(?:study|studies|exams?|films?))?|prior\s+(?:study|studies|exams?)|priors",
    "technique": r"techniques?|exam(?:ination)?(?:\s+type)?|study|procedures?(?:\s+comments)?|(?:number\s+of\s+)?views?",
    "findings": r"findings?|report|observations?|body\s+of\s+report|narrative",
    "impression": (
        r"(?:final\s+)?impressions?|conclusions?|opinion|summary|findings?\s*(?:and|/|&)\s*impressions?"
        r"|impressions?\s*(?:and|/|&)\s*recommendations?"
    ),
    "addendum": r"addend(?:um|a)(?:\s*#?\s*\d+)?",
    "remainder": r"(?:electronically\s+)?signed(?:\s+by)?|dictated\s+by|transcribed\s+by|notifications?|wet\s+read",
}
_NAMES = "|".join(f"(?P<{section}>{pattern})" for section, pattern in _HEADERS.items())
# A header is a name with a colon that opens a line or follows a sentence; in capitals it may stand anywhere or go without the colon.
_HEADER = re.compile(
    rf"(?:(?:^|(?<=[.;:!?)\]])[ \t]|(?<=[.;:!?)\]]))[ \t>*#_]*(?i:{_NAMES})[ \t*_]*(?::|(?=\s*$)(?<=[A-Z*_]))[*_]*)",
    re.MULTILINE,
)
