"""Sections of a radiology report: where the indication ends and the evidence begins."""

import re
from collections.abc import Mapping
from typing import Any

from radscale.errors import InputError

SECTIONS = ("indication", "comparison", "technique", "findings", "impression", "addendum", "remainder")

_HEADERS = {
    "impression": (
        r"findings?\s*(?:and|/|&)\s*impressions?|impressions?\s*(?:and|/|&)\s*(?:recommendations?|plan)"
        r"|(?:final\s+)?impressions?|conclusions?|opinion|summary"
    ),
    "findings": r"findings?|report|observations?|body\s+of\s+report|narrative",
    "indication": (
        r"(?:(?:clinical|brief|patient|relevant)\s+)?(?:indications?|history)(?:\s*(?:and|/|&)\s*(?:history|indications?))?"
        r"(?:\s+for\s+(?:exam(?:ination)?|study))?|reason\s+for\s+(?:the\s+)?(?:exam(?:ination)?|study|visit)"
        r"|clinical\s+(?:information|data|statement|question|details)"
    ),
    "comparison": r"comparisons?(?:\s+(?:study|studies|exams?|films?))?|prior\s+(?:study|studies|exams?)|priors",
    "technique": r"techniques?|exam(?:ination)?(?:\s+type)?|study|procedures?(?:\s+comments)?|(?:number\s+of\s+)?views?",
    "addendum": r"addend(?:um|a)(?:\s*#?\s*\d+)?",
    "remainder": r"(?:electronically\s+)?signed(?:\s+by)?|dictated\s+by|transcribed\s+by|notifications?|wet\s+read",
}
_NAMES = "|".join(f"(?P<{section}>{pattern})" for section, pattern in _HEADERS.items())
_HEADER = re.compile(rf"(?<![A-Za-z])(?:{_NAMES})(?P<colon>[ \t*_]*:[*_]*)?(?![A-Za-z])", re.IGNORECASE)
_LINE_START = re.compile(r"(?:^|\n)[ \t>*#_]*\Z")
_SENTENCE_END = re.compile(r"[.;:!?)\]][ \t]*\Z")
_LINE_END = re.compile(r"[ \t*_]*(?:\n|\Z)")
_CAPITALISED_WORD = re.compile(r"[ \t]+[A-Z][a-z]")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_BRIEF = ("indication", "comparison", "technique")


def split_sections(text: str) -> dict[str, str]:
    """Split a report into `SECTIONS`; a section that is absent is an empty string.

    A header is a known name with a colon that opens a line or follows a sentence, or a name in capitals: with a colon anywhere,
    without one when it opens a line. Sections that occur twice are joined by a newline. Nothing is lost: all text except the
    headers themselves and white space around sections is in one section, and what no header claims is in `remainder`. If the
    report has no findings header, only the first paragraph belongs to an indication, comparison or technique, and later ones to
    `remainder`.
    """
    if not isinstance(text, str):
        raise InputError(f"report text is of type {type(text).__name__}; it must be a string: pass the text of one report")
    parts: dict[str, list[str]] = {section: [] for section in SECTIONS}
    section, start = "remainder", 0
    for match in _HEADER.finditer(text):
        if not _is_header(text, match):
            continue
        parts[section].append(text[start : match.start()])
        section, start = _section_of(match), match.end()
    parts[section].append(text[start:])
    if not any(part.strip() for part in parts["findings"]):
        _release_paragraphs(parts)
    return {section: "\n".join(filter(None, (part.strip() for part in parts[section]))) for section in SECTIONS}


def evidence(sections: Mapping[str, Any]) -> dict[str, str]:
    """The texts that describe the image, in reading order: findings, impression, addendum; empty ones are left out.

    `remainder` stands in for findings that are empty (a report without headers). Indication, history, comparison and technique
    are never evidence.

    Raises:
        InputError: not a mapping, neither findings nor impression present, or a section that is no text.
    """
    if not isinstance(sections, Mapping):
        raise InputError(
            f"sections are of type {type(sections).__name__}; they must be a dict with 'findings' and 'impression': use"
            " split_sections(text)"
        )
    if "findings" not in sections and "impression" not in sections:
        raise InputError(
            f"sections have the keys {sorted(map(str, sections))}; 'findings' or 'impression' is needed: use"
            " split_sections(text)"
        )
    for name, value in sections.items():
        if value is not None and not isinstance(value, str):
            raise InputError(
                f"section {name!r} is of type {type(value).__name__}; it must be a string: pass '' for an empty section"
            )
    findings = sections.get("findings") or ""
    if not findings.strip():
        findings = sections.get("remainder") or ""
    texts = {"findings": findings, "impression": sections.get("impression"), "addendum": sections.get("addendum")}
    return {name: text for name, text in texts.items() if text and text.strip()}


def check_engine(engine: str) -> None:
    """Raise InputError unless `engine` is one that reads reports here."""
    if engine != "rules":
        raise InputError(f"engine {engine!r} is not available; available: 'rules'")


def _is_header(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - 40) : match.start()]
    name = match.group(_section_of(match))
    opens_line = bool(_LINE_START.search(before)) or not before.strip()
    if match.group("colon"):
        if name.isupper():
            return True
        return opens_line or (name[0].isupper() and bool(_SENTENCE_END.search(before)))
    if not (name.isupper() and opens_line):
        return False
    return bool(_LINE_END.match(text, match.end()) or _CAPITALISED_WORD.match(text, match.end()))


def _section_of(match: re.Match[str]) -> str:
    return next(section for section in _HEADERS if match.group(section) is not None)


def _release_paragraphs(parts: dict[str, list[str]]) -> None:
    """Move what follows the first paragraph of a brief section to the remainder: unlabelled findings often stand there."""
    for section in _BRIEF:
        for index, part in enumerate(parts[section]):
            body = part.lstrip()
            split = _PARAGRAPH.search(body)
            if split:
                parts[section][index] = body[: split.start()]
                parts["remainder"].append(body[split.end() :])
