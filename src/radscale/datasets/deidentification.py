"""Pseudonyms: only allow-listed fields leave the archive, ids become keyed hashes, dates intervals."""

import hashlib
import hmac
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from radscale.errors import InputError

PSEUDONYM_HEX = 20
SECRET_BYTES = 32
FIRST_YEAR = 1895
FIRST_MOVED_YEAR = 2100


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


def year_of(value: str) -> int | None:
    """True year of a date that `parse_date` reads; None from 2100 on, whither publishers move dates."""
    day = parse_date(value)
    year = None if day is None else date.fromordinal(day).year
    return year if year is not None and year < FIRST_MOVED_YEAR else None


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
