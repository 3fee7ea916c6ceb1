"""Pseudonyms and scrubbing: only allow-listed fields leave the archive, ids become keyed hashes, dates intervals."""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from radscale.errors import InputError

PSEUDONYM_HEX = 20
SECRET_BYTES = 32


def load_or_create_secret(path: Path) -> bytes:
    """The key of all pseudonyms, made on first use and readable by its owner only. Whoever has it can link back: keep it.

    Raises:
        InputError: the file does not hold a key.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip()) if path.stat().st_size else b""
        if len(secret) != SECRET_BYTES:
            raise InputError(
                f"{path}: not a key of {SECRET_BYTES} bytes; restore it, or delete it to start with a new one"
            ) from None
        return secret
    with os.fdopen(descriptor, "w") as file:
        secret = os.urandom(SECRET_BYTES)
        file.write(secret.hex())
    return secret


def pseudonym(secret: bytes, kind: str, identifier: str) -> str:
    """20 hex digits of HMAC-SHA256; `kind` keeps equal patient and study numbers apart."""
    return hmac.new(secret, f"{kind}\0{identifier}".encode(), hashlib.sha256).hexdigest()[:PSEUDONYM_HEX]


def parse_date(value: str) -> int | None:
    """Day number of YYYYMMDD or YYYY-MM-DD; None for anything else."""
    digits = value.replace("-", "").strip()[:8]
    try:
        return datetime.strptime(digits, "%Y%m%d").toordinal()
    except ValueError:
        return None


MONTHS = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)[a-z]*"
PATTERNS = (
    (re.compile(r"\b\d{4}-\d{1,2}-\d{1,2}\b|\b\d{1,2}[/.]\d{1,2}[/.](?:\d{4}|\d{2})\b|\b(?:19|20)\d{6}\b"), "[date]"),
    (re.compile(rf"\b(?:\d{{1,2}}\s+)?(?:{MONTHS})\.?\s+(?:\d{{1,2}},?\s+)?(?:19|20)\d{{2}}\b", re.IGNORECASE), "[date]"),
    (
        re.compile(r"\b(?:mrn|acc(?:ession)?|patient id|case)\s*(?:number|no\.?|#)?\s*[:#]?\s*[A-Z]*\d[\w-]*", re.IGNORECASE),
        "[number]",
    ),
    (re.compile(r"\b\d{7,}\b|\b\d{3}[-.\s]\d{3}[-.\s]\d{4}\b"), "[number]"),
    (re.compile(r"\b(?:Dr|Drs|Mr|Mrs|Ms|Prof)\.?\s+(?:[A-Z]\.\s*)?[A-Z][a-z]+(?:[- ][A-Z][a-z]+)?"), "[name]"),
    (re.compile(r"\b[A-Z][a-z]+(?:\s+[A-Z]\.?)?\s+[A-Z][a-z]+,?\s+(?:M\.?D|D\.?O|R\.?N|P\.?A)\b\.?"), "[name]"),
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
