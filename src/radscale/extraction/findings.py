"""The 19 findings and "no finding" of one report."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from radscale.extraction.context import Assertion, SentenceContext, sentence_spans
from radscale.extraction.ontology import (
    BORDERLINE_HEART,
    FINDING_MENTIONS,
    FINDING_NORMAL,
    FINDING_STEMS,
    FINDINGS,
    NOT_DENIED_BY_PARTS,
    POSITIVE_ONLY,
)
from radscale.extraction.sections import check_engine, evidence

_MENTIONS = {finding: re.compile(pattern) for finding, pattern in FINDING_MENTIONS.items()}
_NORMAL = {finding: re.compile(pattern) for finding, pattern in FINDING_NORMAL.items()}
_POSITIVE_ONLY = {finding: re.compile(pattern) for finding, pattern in POSITIVE_ONLY.items()}
_BORDERLINE_HEART = re.compile(BORDERLINE_HEART)
_SPACE = re.compile(r"\s+")
_RANK = {Assertion.NEGATIVE: 1, Assertion.UNCERTAIN: 2, Assertion.POSITIVE: 3}
_VALUE: dict[Assertion, int | str] = {Assertion.POSITIVE: 1, Assertion.NEGATIVE: 0, Assertion.UNCERTAIN: "uncertain"}


def extract_findings(sections: Mapping[str, Any], engine: str = "rules") -> dict[str, int | float | str]:
    """Findings that a report states of its image.

    Only findings, impression and addendum are evidence (`sections.evidence`). Within a text positive beats uncertain beats
    negative; across texts likewise, except that an impression that denies what the findings call uncertain settles it, and an
    addendum has the last word. "Likely" and "probable" are read as positive, "possible", "may", "versus", "cannot be excluded"
    as uncertain.

    Args:
        sections: as returned by `split_sections`; `findings` or `impression` must be a key.
        engine: "rules".

    Returns:
        The 19 keys of `FINDINGS`, then "no_finding": 1, 0, nan (not mentioned) or "uncertain". `no_finding` is 1 if there is
        report text and no finding is positive or uncertain, "uncertain" if none is positive and some are uncertain, nan without
        text.

    Raises:
        InputError: unknown engine, or sections that are no dict of texts with findings or impression.
    """
    check_engine(engine)
    texts = evidence(sections)
    stated = {name: text_assertions(text) for name, text in texts.items()}
    found = dict(stated.get("findings", {}))
    for finding, assertion in stated.get("impression", {}).items():
        settled = assertion is Assertion.NEGATIVE and found.get(finding) is Assertion.UNCERTAIN
        if settled or _RANK[assertion] > _RANK.get(found.get(finding, Assertion.IGNORED), 0):
            found[finding] = assertion
    found.update(stated.get("addendum", {}))
    values: dict[str, int | float | str] = {
        finding: _VALUE[found[finding]] if finding in found else float("nan") for finding in FINDINGS
    }
    values["no_finding"] = _no_finding(found, has_text=bool(texts))
    return values


def _no_finding(found: Mapping[str, Assertion], has_text: bool) -> int | float | str:
    if not has_text:
        return float("nan")
    if Assertion.POSITIVE in found.values():
        return 0
    return "uncertain" if Assertion.UNCERTAIN in found.values() else 1


def text_assertions(text: str) -> dict[str, Assertion]:
    """Strongest assertion of each finding that one text mentions; positive > uncertain > negative."""
    found: dict[str, Assertion] = {}
    for start, end in sentence_spans(text):
        for finding, assertion in _sentence_assertions(_SPACE.sub(" ", text[start:end]).lower()):
            if finding not in found or _RANK[assertion] > _RANK[found[finding]]:
                found[finding] = assertion
    return found


# Reports repeat themselves ("No pleural effusion or pneumothorax."): the cache saves most of the work and is bounded.
@lru_cache(maxsize=65536)
def _sentence_assertions(sentence: str) -> tuple[tuple[str, Assertion], ...]:
    context: SentenceContext | None = None
    found = []
    for finding, stems in FINDING_STEMS.items():
        if not any(stem in sentence for stem in stems):
            continue
        context = context or SentenceContext(sentence)
        assertions = _finding_assertions(finding, sentence, context)
        if assertions:
            found.append((finding, max(assertions, key=lambda assertion: _RANK[assertion])))
    return tuple(found)


def _finding_assertions(finding: str, sentence: str, context: SentenceContext) -> list[Assertion]:
    assertions = [
        context.assertion(match.start(), match.end())
        for match in _MENTIONS[finding].finditer(sentence)
        if match.lastgroup != "skip"
    ]
    if finding in NOT_DENIED_BY_PARTS:
        assertions = [assertion for assertion in assertions if assertion is not Assertion.NEGATIVE]
    if finding in _POSITIVE_ONLY:
        implied = [context.assertion(match.start(), match.end()) for match in _POSITIVE_ONLY[finding].finditer(sentence)]
        assertions += [assertion for assertion in implied if assertion is not Assertion.NEGATIVE]
    if finding in _NORMAL and _NORMAL[finding].search(sentence):
        assertions.append(Assertion.NEGATIVE)
    if finding == "cardiomegaly":
        assertions += [
            Assertion.UNCERTAIN
            for match in _BORDERLINE_HEART.finditer(sentence)
            if context.assertion(match.start(), match.end()) is Assertion.UNCERTAIN
        ]
    return [assertion for assertion in assertions if assertion is not Assertion.IGNORED]
