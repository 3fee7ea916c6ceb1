"""Reports in HL7 v2 result messages (ORU^R01): MSH, PID, OBR and OBX segments, nothing else (HL7 v2.5.1, chapters 2 and 7)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

SEGMENT_END = re.compile(r"\r\n|\r|\n")
FRAMING = "\x0b\x1c"
"""Of MLLP, left in files that an interface engine wrote."""
TEXT_TYPES = ("TX", "FT", "ST", "")
SECTION_SUFFIXES = {"IMP": "impression", "GDT": "findings", "HIST": "indication"}
"""Of the observation identifier (OBX-3), as `71020&IMP`; HL7 v2.5.1, 7.4.2.3, GDT being the description."""
ESCAPES = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\", ".br": "\n", ".sp": "\n", "H": "", "N": ""}


@dataclass
class Hl7Report:
    """One order (OBR) with its text."""

    accession: str
    patient: str
    time: str
    names: tuple[str, ...]
    """Persons and numbers of the message, only to be scrubbed."""
    lines: list[str] = field(default_factory=list)
    sections: dict[str, list[str]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "\n".join(self.lines).strip()


def decode_hl7(data: bytes) -> str:
    """Text of a file: by its MSH-18 if that says UTF-8 or 8859, else UTF-8 if it is that, else Windows-1252."""
    header = data[:4096].upper()
    if b"8859/1" in header:
        return data.decode("latin-1")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def parse_hl7(text: str) -> Iterator[Hl7Report]:
    """Reports of all messages of a text, in its order; what is no message gives none.

    The accession number is the placer field 1 (OBR-18), else the filler's or the placer's order number (OBR-3, OBR-2). The time
    is that of the observation (OBR-7). Lines are the observation values (OBX-5) of text types, repetitions as lines of their
    own.
    """
    separator, component, patient = "|", "^", ""
    names: tuple[str, ...] = ()
    report: Hl7Report | None = None
    for line in SEGMENT_END.split(text):
        segment = line.strip(FRAMING + " ")
        kind = segment[:3]
        if kind == "MSH" and len(segment) > 8:
            if report is not None:
                yield report
            separator, component, patient, names, report = segment[3], segment[4], "", (), None
            continue
        fields = segment.split(separator)

        def value(number: int, fields: list[str] = fields) -> str:
            return fields[number] if number < len(fields) else ""

        def first(number: int, fields: list[str] = fields, component: str = component) -> str:
            return _unescape(fields[number].split("~")[0].split(component)[0]).strip() if number < len(fields) else ""

        if kind == "PID":
            patient = first(3) or first(2)
            names = tuple(_persons(component, value(2), value(3), value(5), value(9), value(18), value(19)))
        elif kind == "OBR":
            if report is not None:
                yield report
            persons = _persons(component, value(10), value(16), value(28), value(32), value(33), value(34), value(35))
            accession = first(18) or first(3) or first(2)
            report = Hl7Report(accession, patient, first(7), (*names, *persons))
        elif kind == "OBX" and report is not None and value(2) in TEXT_TYPES:
            part = SECTION_SUFFIXES.get(re.split(r"[&^]", value(3) + "&")[1].upper())
            for piece in value(5).split("~"):
                line_text = _unescape(piece)
                report.lines.append(line_text)
                if part is not None:
                    report.sections.setdefault(part, []).append(line_text)
    if report is not None:
        yield report


def _persons(component: str, *values: str) -> Iterator[str]:
    """Words of names and numbers that are long enough to be told from others."""
    for value in values:
        for word in re.split(rf"[{re.escape(component)}&~\s,]+", value):
            if len(word) > 2 and word.lower() not in ("and", "the", "von", "van"):
                yield _unescape(word)


def _unescape(text: str) -> str:
    def replacement(match: re.Match[str]) -> str:
        code = match.group(1)
        if re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", code):
            return bytes.fromhex(code[1:]).decode("utf-8", errors="replace")
        return ESCAPES.get(code, "")

    return re.sub(r"\\([^\\\r\n]{1,40})\\", replacement, text) if "\\" in text else text
