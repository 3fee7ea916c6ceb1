"""Pseudonyms and scrubbing: only allow-listed fields leave the archive, ids become keyed hashes, dates intervals."""

import hashlib
import hmac
import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from radscale.errors import InputError

PSEUDONYM_HEX = 20
SECRET_BYTES = 32
FIRST_YEAR = 1895


def load_or_create_secret(path: Path) -> bytes:
    """The key of all pseudonyms, made on first use and readable by its owner only. Whoever has it can link back: keep it.

    Raises:
        InputError: the file does not hold a key, or cannot be made.
    """
    if not path.exists():
        try:
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(descriptor, "w") as file:
                file.write(os.urandom(SECRET_BYTES).hex())
            # Whole or not at all, whoever is killed; of two that make one at the same time the first wins.
            with suppress(FileExistsError):
                os.link(temporary, path)
            os.unlink(temporary)
        except OSError as error:
            raise InputError(f"{path}: the key cannot be written ({error.strerror}); choose another place") from None
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (ValueError, IsADirectoryError):
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise InputError(
            f"{path}: not a key of {SECRET_BYTES} bytes ({2 * SECRET_BYTES} hexadecimal digits); restore it, or delete it to "
            "start with a new one"
        )
    return secret


def pseudonym(secret: bytes, kind: str, identifier: str) -> str:
    """20 hex digits of HMAC-SHA256; `kind` keeps equal patient and study numbers apart."""
    return hmac.new(secret, f"{kind}\0{identifier}".encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:PSEUDONYM_HEX]


MIN_SHIFT_DAYS, MAX_SHIFT_DAYS = 366, 3652


@dataclass(frozen=True)
class Pseudonyms:
    """Pseudonyms of one key, and the days by which it moves each patient's dates."""

    secret: bytes = field(repr=False)

    def __call__(self, kind: str, identifier: str) -> str:
        """As `pseudonym`."""
        return pseudonym(self.secret, kind, identifier)

    @property
    def check(self) -> str:
        """Tells two keys apart, and nothing about either."""
        return self("check", "")

    def shift_days(self, patient: str) -> int:
        """Days that all dates of a patient are moved back: intervals survive, dates and their years do not (PS3.15, Annex E,
        option 113107, Retain Longitudinal Temporal Information with Modified Dates)."""
        return MIN_SHIFT_DAYS + int(self("shift", patient), 16) % (MAX_SHIFT_DAYS - MIN_SHIFT_DAYS + 1)

    def shifted(self, patient: str, day: int | None) -> int | None:
        """Day number of `date.toordinal`, moved."""
        return None if day is None else day - self.shift_days(patient)


_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})-(\d{1,2})|\.(\d{2})\.(\d{2})|(\d{2})(\d{2}))(?!\d)(?:[T ].*)?")


def parse_date(value: str) -> int | None:
    """Day number of YYYYMMDD, YYYY-MM-DD or YYYY.MM.DD (a time may follow); None for anything else, such as 01/02/2020, whose
    month nobody knows, and for years in which there were no X-rays."""
    match = _DATE.fullmatch(value.strip())
    if match is None:
        return None
    year, month, day = (int(part) for part in match.groups() if part is not None)
    try:
        return date(year, month, day).toordinal() if year >= FIRST_YEAR else None
    except ValueError:
        return None


def parse_second(value: str) -> int | None:
    """Second of the day of HHMM, HHMMSS or HH:MM:SS (fractions and zones are cut); None for anything else."""
    match = re.fullmatch(r"(\d{2}):?(\d{2})(?::?(\d{2}))?(?:[.+-].*)?", value.strip())
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.groups())
    return hour * 3600 + minute * 60 + min(second, 59) if hour < 24 and minute < 60 and second <= 60 else None


def parse_moment(value: str) -> tuple[int | None, int | None]:
    """Day number and second of the day of a date with or without a time, such as 20200131143000 or 2020-01-31 14:30."""
    text = value.strip()
    match = re.fullmatch(r"(\d{8})(\d{4}.*)|(\S{8,10})[T ](.*)", text)
    if match is None:
        return parse_date(text), None
    day, time = (part for part in match.groups() if part is not None)
    return parse_date(day), parse_second(time)


_MONTHS = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|m\u00e4rz|apr(?:il)?|june?|juni|july?|juli|aug(?:ust)?|sept?(?:ember)?"
    r"|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)\b\.?"
)
_MONTHS_AND_MAY = rf"(?:{_MONTHS}|ma[iy]\b)"
"""In a report, "3. May represent" is no date: May needs a year beside it."""
_DAY = r"\d{1,2}(?:st|nd|rd|th|\.)?"
_YEAR = r"(?:(?:19|20)\d{2}|'?\d{2})\b"
_PERSON = r"(?:[A-Z]\.\s*)*(?:(?:von|van|de[rn]?|di|la|al|bin)\s+)*[A-Z][\w'\u2019-]+(?:\s+(?:[A-Z]\.\s*)?[A-Z][\w'\u2019-]+)?"
PATTERNS = (
    (
        re.compile(r"\b(?:19|20)\d{2}([-/.])\d{1,2}\1\d{1,2}\b|\b\d{1,2}([-/.])\d{1,2}\2(?:\d{4}|\d{2})\b|\b(?:19|20)\d{6}\b"),
        "[date]",
    ),
    (
        re.compile(
            rf"\b{_DAY}(?:\s+of)?[\s-]*{_MONTHS_AND_MAY},?[\s-]*{_YEAR}|\b{_MONTHS_AND_MAY}\s*{_DAY}[\s,]+(?:19|20)\d{{2}}\b"
            rf"|\b{_MONTHS_AND_MAY},?\s*(?:19|20)\d{{2}}\b|\b{_DAY}(?:\s+of)?[\s-]*{_MONTHS}|\b{_MONTHS}\s*{_DAY}(?!\w)",
            re.IGNORECASE,
        ),
        "[date]",
    ),
    (
        re.compile(
            r"\b(?:mrn|med(?:ical)?\s+rec(?:ord)?|acc(?:ession)?|patient\s+id|case|ssn)\s*(?:number|num|no\.?|nr\.?|#)?\s*[:#]?"
            r"\s*[A-Z]{0,4}-?\d[\w-]*",
            re.IGNORECASE,
        ),
        "[number]",
    ),
    (
        re.compile(
            r"\b\d{7,}\b|\(?\b\d{3}\)?[-.\s]\s?\d{3}[-.\s]\d{4}\b|\b\d{3}-\d{2}-\d{4}\b|\+\d[\d\s()-]{7,}\d"
            r"|\b[\w.+-]+@[\w-]+\.[\w.]+"
        ),
        "[number]",
    ),
    (
        re.compile(rf"\b(?:Drs?|Mr|Mrs|Ms|Prof)\b\.?\s+{_PERSON}|\b(?:DR|MR|MRS|MS)\.\s+{_PERSON}|\bDoctor\s+{_PERSON}"),
        "[name]",
    ),
    (
        re.compile(
            rf"\b(?:[A-Z][\w'\u2019-]+,\s+)?{_PERSON}(?:,\s+(?:MD|DO|RN|PA|MBBS|FRCR)\b|,?\s+(?:M\.\s?D|D\.\s?O|R\.\s?N|P\.\s?A)\b\.?|\s+(?:MD|MBBS|FRCR)\b)"
        ),
        "[name]",
    ),
    (
        re.compile(rf"\b((?i:discussed|communicated|reported|dictated|signed|transcribed)\s+(?:with|to|by):?\s+){_PERSON}"),
        r"\1[name]",
    ),
)


def scrub_text(text: str, known: Iterable[str] = ()) -> str:
    """Remove what identifies from a report: the patient's own names and numbers, dates, record numbers, titled names.

    Args:
        text: the report.
        known: names and numbers of this patient, from the header.
    """
    for value in sorted(set(known), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "[removed]", text, flags=re.IGNORECASE)
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text
