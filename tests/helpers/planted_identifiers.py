"""Identifiers of each kind in many surface forms, to be planted into reports.

A draw returns a phrase and the parts that must go. Who wrote the rules wrote both lists, after the rules.
"""

import random

FIRST = ("Jane", "Robert", "Maria", "Kwame", "Sofia", "Dieter", "Priya", "Tomas", "Aisha", "Eleanor")
LAST = ("Fairweather", "Okonkwo", "Vandermeer", "Castellanos", "Brightwell", "Nakamura", "Schreiber", "Ostrowski", "Lindqvist")
TOWNS = ("Ashbourne", "Kettleford", "Marlowe", "Pinehurst", "Wexcombe")
MONTHS = ("January", "February", "March", "April", "June", "July", "August", "September", "October", "November", "December")

FORMS: dict[str, tuple[str, ...]] = {
    "NAME": (
        "Findings discussed with Dr. {last}.",
        "Electronically signed by {first} {last}, MD.",
        "Dictated by: {first} {last}",
        "{last}, {first} MD",
        "Referring physician: {last}, {first}.",
        "Nurse {last} was notified.",
        "{first} {x}. {last}, R.N.",
        "Results were relayed to {first} {last}.",
    ),
    "DATE": (
        "Compared to {year}-{m:02}-{d:02}.",
        "Prior of {m}/{d}/{year}.",
        "Seen on {m}/{d}.",
        "Film of {d}.{m:02}.{year}.",
        "CT of {month} {d}, {year}.",
        "Study from {d} {month} {year}.",
        "Radiograph dated {d}-{mon}-{yy:02}.",
        "Surgery in {month} {year}.",
    ),
    "NUMBER": (
        "MRN: {n7}",
        "Accession # RA-{n7}.",
        "Record no. {n5}.",
        "Patient ID {n7}.",
        "Case {n5}.",
        "SSN {n3}-{n2}-{n4}.",
    ),
    "CONTACT": (
        "Phone {n3}-{n3b}-{n4}.",
        "Pager #{n5}.",
        "Call ({n3}) {n3b}-{n4}.",
        "Fax: {n3}.{n3b}.{n4}",
        "{last}@{town}.org",
        "See https://{town}.org/{n5}.",
        "Reachable at ext. {n4}.",
    ),
    "PLACE": (
        "Transferred from {town}.",
        "Prior at {town} General Hospital.",
        "{n3} {town} Street.",
        "St. {first}'s Clinic.",
        "Images from {town} Medical Center.",
        "Lives in {town}, TX {n5}.",
    ),
    "AGE": ("{old} year old woman.", "{old}-year-old male.", "{old} yo.", "Aged {old}.", "{old} y/o F."),
}
"""Such as the rules were written for."""

HELD_OUT: dict[str, tuple[str, ...]] = {
    "NAME": (
        "Case reviewed by attending {first} {last}.",
        "Thank you, {first} {last}, for this referral.",
        "Attending: {first} {last} M.D.",
        "I, {first} {last}, have reviewed the images.",
        "Ms {last} returned for follow-up.",
        "Drs. {last} and Team informed.",
        "Per {last}, tube was advanced.",
        "Report authored by {last} {first}.",
    ),
    "DATE": (
        "Compared with the {d}th of {month}.",
        "Unchanged since {mon} {d}.",
        "Last seen {m:02}{d:02}{year}.",
        "({m}-{d}-{yy:02})",
        "Placed {year}/{m:02}/{d:02}.",
        "Exam of {mon}. {d}, {year}.",
        "Comparison: {m:02}/{year}.",
        "Earlier film, {d} {mon} '{yy:02}.",
    ),
    "NUMBER": ("Med rec {n7}.", "Acc.: {n7}", "Encounter number {n7}.", "(#{n7})", "ID CXR{n7}.", "Order no: {n5}-{n2}."),
    "CONTACT": (
        "Tel. {n3} {n3b} {n4}.",
        "Beeper {n4}.",
        "x{n4} for questions.",
        "+1 {n3} {n3b} {n4}",
        "Mail to {first}.{last}@{town}.net.",
        "Portal www.{town}.net.",
    ),
    "PLACE": (
        "Outside films of {town} Clinic.",
        "Patient of Klinikum {town}.",
        "{n3} North {town} Ave.",
        "University of {town}.",
        "Referred by the {town} practice.",
        "Flown in from {town}.",
    ),
    "AGE": ("{old} years old.", "{old} yr old.", "Age: {old}.", "{old}F with cough.", "Ninety-three-year-old."),
}
"""Meant to differ from those; no rule was changed for them."""


def draw(rng: random.Random, form: str) -> tuple[str, tuple[str, ...]]:
    """The phrase, and its identifying parts, which are all that is varied in it."""
    month = rng.randrange(len(MONTHS))
    values = {
        "first": rng.choice(FIRST),
        "last": rng.choice(LAST),
        "town": rng.choice(TOWNS),
        "x": rng.choice("ABEHK"),
        "year": rng.randrange(2002, 2024),
        "m": rng.randrange(1, 13),
        "d": rng.randrange(13, 29),
        "yy": rng.randrange(3, 24),
        "month": MONTHS[month],
        "mon": MONTHS[month][:3],
        "old": rng.randrange(91, 105),
        "n2": rng.randrange(10, 99),
        "n3": rng.randrange(201, 999),
        "n3b": rng.randrange(201, 999),
        "n4": rng.randrange(2300, 9999),
        "n5": rng.randrange(30000, 99999),
        "n7": rng.randrange(4000000, 9999999),
    }
    parts = ("first", "last", "town", "year", "n3", "n3b", "n4", "n5", "n7", "old", "month")
    used = [str(values[name]) for name in parts if f"{{{name}}}" in form or f"{{{name}:" in form]
    phrase = form.format(**values)
    return phrase, tuple(used) or (phrase.strip("."),)
