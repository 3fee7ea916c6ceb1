"""Context of a mention in its sentence: negated, uncertain, resolved or hypothetical.

Rules in the manner of NegEx (Chapman et al., 2001): a cue has a direction and a scope, and the scope ends at a terminator. All
functions take lower-case text unless they say otherwise.
"""

import re
from enum import Enum


class Assertion(Enum):
    """What a sentence says of one mention."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    UNCERTAIN = "uncertain"
    IGNORED = "ignored"
    """Not said of this image: a recommendation, a question, somebody's history."""


_ABBREVIATIONS = r"(?:\b(?:dr|mr|mrs|ms|approx|vs|no|st|fig|e\.g|i\.e|etc|a\.m|p\.m|resp|min|max|incl|s/p|ext)|\b[A-Za-z])"
# A full stop ends a sentence unless it follows an abbreviation or an initial, or stands inside a number.
_BOUNDARY = re.compile(
    r"(?P<stop>[.!?]+[\"')\]]*)(?=\s|\Z|[A-Z])|(?P<line>[ \t]*\n\s*\n\s*|\n(?=[ \t]*(?:[-*\u2022]|\d{1,2}[.)]\s)))"
)
_ENDS_IN_ABBREVIATION = re.compile(_ABBREVIATIONS + r"\Z", re.IGNORECASE)
_ITEM_NUMBER = re.compile(r"(?:\A|[\n.])\s*\d{1,2}\Z")
_LEADING_MARK = re.compile(r"\s*(?:(?:\d{1,2}[.)]|[-*\u2022])\s+)?")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence of `text` (any case); list marks and white space around it are left out.

    Decimals ("2.5 cm"), abbreviations ("Dr. X", "vs. pneumonia") and item numbers ("1. Effusion") do not end a sentence; a
    blank line and a list mark at the start of a line do.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _BOUNDARY.finditer(text):
        if match.start() < start:
            continue
        if match.group("stop") is not None:
            before = text[start : match.start()]
            single = match.group("stop") == "."
            if single and match.end() < len(text) and _ENDS_IN_ABBREVIATION.search(before):
                continue
            if single and _ITEM_NUMBER.search(text[max(0, start - 1) : match.start()]):
                continue
        _append(spans, text, start, match.end())
        start = match.end()
    _append(spans, text, start, len(text))
    return spans


def _append(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    mark = _LEADING_MARK.match(text, start, end)
    start = mark.end() if mark else start
    while end > start and text[end - 1].isspace():
        end -= 1
    if any(character.isalnum() for character in text[start:end]):
        spans.append((start, end))


_CHANGE = (
    r"(?:changes?|increases?|decreases?|improvement|progression|worsening|enlargement|differences?|resolution|clearing"
    r"|removal)"
)
_MODIFIERS = (
    r"(?:(?:any|significant|interval|substantial|appreciable|definite|other|major|obvious|marked|further|convincing"
    r"|evidence of|real)\s+)"
)
# Words that look like a negation of what follows and are not: "no change in the effusion", "not without", "nearly resolved".
_PSEUDO_NEGATION = re.compile(
    rf"\b(?:no|without)\s+{_MODIFIERS}{{0,4}}{_CHANGE}(?:\s+(?:in|of|from|to))?\b"
    r"|\bnot\s+(?:(?:\w+ly|yet)\s+)?(?:changed|increased|decreased|improved|resolved|cleared|enlarging|different"
    r"|progressed|worsened)\b"
    r"|\bnot\s+(?:without|absent|free of|only|unexpected)\b|\bno\s+(?:lack|absence|doubt)\b(?:\s+of)?"
    r"|\b(?:near(?:ly)?|partial(?:ly)?|incomplete(?:ly)?|almost|mostly|largely"
    r"|essentially)\s+(?:complete(?:ly)?\s+)?(?:resolution(?:\s+of)?|resolved|cleared)\b"
    r"|\bnot\s+(?:seen|present|visible|visuali[sz]ed|identified|evident|noted)\s+(?:on|in)\s+(?:the\s+)?(?:prior"
    r"|previous|earlier|comparison)\b"
)

_EXCLUDE = r"(?:exclud(?:e|ed|ing)|rul(?:e|ed|ing)\s+out)"
_NOT_SEEN = (
    r"(?:seen|present|visible|visuali[sz]ed|identified|evident|appreciated|demonstrated|noted|detected|apparent"
    r"|observed|suspected|found)"
)
_FORWARD_CUES = re.compile(
    r"(?P<uncertain_first>\b(?:can\s*not|can't|could\s+not|not\s+possible\s+to"
    rf"|difficult\s+to)\s+(?:\w+ly\s+)?(?:be\s+)?{_EXCLUDE}\b)"
    r"|(?P<ignored>\b(?:recommend\w*|(?:re)?evaluat(?:e|ion|ed|ing)\s+(?:for|of|to)|assess(?:ment)?\s+(?:for|of)"
    r"|rule\s+out|r/o|to\s+(?:exclude|ensure|document|confirm)"
    r"|if\s+(?:clinical\w*|there|symptoms|concern\w*|warranted|persist\w*)|(?:personal\s+)?history\s+of|hx\s+of|h/o"
    r"|clinical\s+(?:history|concern|suspicion|question)(?:\s+(?:of|for))?|(?:in)?sensitiv\w+\s+for|indication))\b"
    r"|(?P<negative>\b(?:no\s+longer|no|not|without|w/o|negative\s+for|free\s+(?:of|from)|clear\s+of|absence\s+of"
    r"|absent|nor|neither|never|denies|lack\s+of"
    r"|resolution\s+of|clearing\s+of|resolved|rather\s+than|instead\s+of|unlikely\s+to\s+(?:be|represent))\b)"
    r"|(?P<uncertain>\b(?:(?:may|might|could)\s+(?:\w+\s+)?be\s+(?:\w+ly\s+|in\s+part\s+)?(?:secondary|due)\s+to"
    r"|possib(?:le|ly|ility)|questionable|question(?:s)?\s+of|questions?|may|might|could"
    r"|suspicious\s+for|suspicion\s+(?:of|for)|suspect\w*"
    r"|concern(?:ing|s)?(?:\s+for)?|worrisome\s+for|suggest\w*|equivocal|borderline|perhaps|potential(?:ly)?"
    r"|indeterminate|differential|less\s+likely)\b)"
)
_DESCRIPTIVE = (
    r"(?:small|moderate\w*|mild(?:ly)?|minimal(?:ly)?|tiny|trace|large|bilateral|left|right|bibasilar|biapical|severe"
    r"|marked|patchy|chronic|old|new|low"
    r"|stable|unchanged|persistent|residual|continued|again|increas\w+|prominent|scattered|multiple|degenerative"
    r"|calcified|mid|lower)"
)
_TERMINATOR = re.compile(
    r"\b(?:but|however|although|though|except|aside\s+from|apart\s+from|other\s+than|besides|otherwise|despite|yet"
    r"|while|whereas|secondary\s+to|due\s+to)\b"
    rf"|[;:]|\bwith\s+(?:an?\s+)?(?:associated\s+|some\s+)?{_DESCRIPTIVE}\b"
    r"|(?:,\s*(?:and\s+)?|\band\s+)(?:the|there|heart|lungs?|cardiac|stable|unchanged|persistent|again|has|have|is|are"
    r"|this|these|it)\b"
    rf"|\b(?:is|are|was|were)\s+{_NOT_SEEN}\s*(?:,|and)"
)
_LIST_BREAK = re.compile(rf"(?:,\s*(?:and\s+)?|\band\s+)(?:an?\s+)?{_DESCRIPTIVE}\b")
_ALTERNATIVE = re.compile(r"\b(?:or|nor)\b")

_VERB = (
    r"(?:\b(?:is|are|was|were|has|have|had|appears?)\s+(?:(?:been|now|also|since|completely|subsequently"
    r"|interval(?:ly)?)\s+)*)"
)
_BACKWARD_CUES = re.compile(
    rf"(?P<uncertain>{_VERB}?\b(?:(?:can\s*not|can't)\s+(?:\w+ly\s+)?be\s+(?:\w+ly\s+)?{_EXCLUDE}"
    rf"|not\s+(?:\w+ly\s+)?{_EXCLUDE}|difficult\s+to\s+(?:\w+ly\s+)?{_EXCLUDE}"
    rf"|less\s+likely|(?:may|might|could)\s+(?:also\s+)?be\s+(?:present|seen))\b"
    r"|(?:suspected|questioned)(?=\s*(?:[.,;]|\Z))"
    rf"|{_VERB}(?:possible|suspected|questioned|questionable|equivocal|(?:an?|in\s+the)\s+(?:possibility|consideration"
    r"|differential))\b)"
    rf"|(?P<negative>{_VERB}?\b(?:(?:no\s+longer|not)\s+(?:\w+ly\s+)?(?:{_NOT_SEEN}|enlarged|thickened|elevated)"
    r"|unlikely|resolved|cleared)\b"
    rf"|{_VERB}(?:absent|ruled\s+out|excluded|gone|normal|unremarkable|within\s+normal)\b)"
)
_BACKWARD_TERMINATOR = re.compile(
    r"\b(?:but|however|although|though|while|whereas|which|and\s+(?:the|there)|there\s+(?:is|are))\b|[;:]|\.\s"
)
_SINGULAR = re.compile(r"\s*(?:is|was|has|appears)\b")
_LAST_CONJUNCT = re.compile(r".*(?:\band\b|,|\bwith\b)", re.DOTALL)
_ALTERNATIVE_BEFORE = re.compile(r"(?:(?P<versus>\bversus|\bvs\.?|/)|(?P<word>\w+),?\s+(?:and/)?or)\s*(?:[\w-]+\s+){0,2}\Z")
_ALTERNATIVE_AFTER = re.compile(
    r"(?:\s+(?!(?:is|are|was|were|with|in|at|and)\b)[\w-]+){0,2},?\s*(?:(?P<versus>\bversus\b|\bvs\b|/)"
    r"|(?:and/)?\bor\b(?!\s+(?:so|more|less|two)))"
)
_GRADE = frozenset(
    [
        "small",
        "moderate",
        "mild",
        "large",
        "trace",
        "minimal",
        "tiny",
        "severe",
        "right",
        "left",
        "one",
        "two",
        "three",
        "new",
        "old",
        "linear",
        "lobar",
        "upper",
        "middle",
        "lower",
        "partial",
        "focal",
        "patchy",
        "acute",
        "interstitial",
        "alveolar",
        "more",
    ]
)


class SentenceContext:
    """Context of one sentence (lower case): the cues are found once, then each mention is looked up."""

    def __init__(self, sentence: str) -> None:
        self._text = _PSEUDO_NEGATION.sub(lambda match: "~" * len(match.group()), sentence)
        self._forward = [
            (match.end(), "uncertain" if match.lastgroup == "uncertain_first" else str(match.lastgroup))
            for match in _FORWARD_CUES.finditer(self._text)
        ]
        self._backward = [
            (match.start(), str(match.lastgroup), bool(_SINGULAR.match(match.group())))
            for match in _BACKWARD_CUES.finditer(self._text)
        ]

    def assertion(self, start: int, end: int) -> Assertion:
        """What the sentence says of the mention at [start, end)."""
        backward = self._backward_cue(start, end)
        forward = self._forward_cue(start, end)
        if forward == "ignored":
            return Assertion.IGNORED
        if backward == "uncertain" or (forward == "uncertain" and backward is None):
            return Assertion.UNCERTAIN
        if "negative" in (forward, backward):
            return Assertion.NEGATIVE
        return Assertion.UNCERTAIN if self._is_alternative(start, end) else Assertion.POSITIVE

    def _forward_cue(self, start: int, end: int) -> str | None:
        """The nearest cue before or inside the mention ("heart is not enlarged") whose scope reaches it."""
        cue = next((cue for cue in reversed(self._forward) if cue[0] <= end), None)
        if cue is None:
            return None
        scope = self._text[cue[0] : start]
        if _TERMINATOR.search(scope + self._text[start : start + 1]):
            return None
        list_break = _LIST_BREAK.search(scope)
        if list_break is not None:
            rest = self._text[cue[0] + list_break.end() :]
            terminator = _TERMINATOR.search(rest)
            if not _ALTERNATIVE.search(rest[: terminator.start()] if terminator else rest):
                return None
        return cue[1]

    def _backward_cue(self, start: int, end: int) -> str | None:
        """The nearest cue behind the mention whose scope reaches it."""
        cue = next((cue for cue in self._backward if cue[0] >= end), None)
        if cue is None:
            return None
        between = self._text[end : cue[0]]
        if _BACKWARD_TERMINATOR.search(between):
            return None
        # "a small effusion, and pneumothorax is not seen": a singular verb reaches the last conjunct only.
        if cue[2] and _LAST_CONJUNCT.match(between):
            return None
        return cue[1]

    def _is_alternative(self, start: int, end: int) -> bool:
        """One side of "atelectasis or infiltrate", "atelectasis versus pneumonia"; not "mild or moderate edema"."""
        before = _ALTERNATIVE_BEFORE.search(self._text, max(0, start - 50), start)
        if before and (before.group("versus") or before.group("word") not in _GRADE):
            return True
        after = _ALTERNATIVE_AFTER.match(self._text, end)
        return after is not None
