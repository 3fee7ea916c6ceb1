"""Lines and tubes of one report: type, side, tip, placement (paper, appendix A.7).

Each sentence is cut into device mentions; mentions that share a predicate ("ET and NG tubes are in standard position") form a
group. What is said of a group, in its sentence and in a sentence that continues it ("Tip in the SVC."), decides side, tip and
placement.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from radscale.extraction.context import Assertion, SentenceContext, sentence_spans
from radscale.extraction.ontology import (
    TIP_PATTERNS,
    TIP_PLACEMENT,
    TUBE_MENTIONS,
    TUBES,
    UNNAMED_ABSENT,
    UNNAMED_DEVICES,
    UNROUTED,
)
from radscale.extraction.sections import check_engine, evidence

_MENTION = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in TUBE_MENTIONS.items()))
_STEMS = (
    "tub", "cath", "line", "tracheal", "trach", "swan", "balloon", "iabp", "drain", "pigtail", "thoracostomy", "pleurx",
    "pleur-x", "gastric", "enteric", "hoff", "ngt", "ogt", "dht", "picc", "port", "subclavian", "jugular", "ij", "cvc", "cvl",
    "sheath", "introducer", "cordis", "hickman", "broviac", "groshong", "quinton", "ett", "et and", "et,", "extubat", "intubat",
    "ng ", "og ", "access", "support",
)  # fmt: skip
_TIPS = {type_: [(re.compile(pattern), tip) for tip, pattern in tips.items()] for type_, tips in TIP_PATTERNS.items()}
_UNNAMED = re.compile(UNNAMED_DEVICES)
_UNNAMED_ABSENT = re.compile(UNNAMED_ABSENT)
_CENTRAL = frozenset({"IJ", "PICC", "SC", UNROUTED})
_SIDED = _CENTRAL | {"CT", "MD", "SGC"}
_SPACES = re.compile(r"\s")

_FILLER = (
    r"(?:(?:the|an?|any|both|all|old|prior|previous|previously|definite|visible|evidence\s+of|new|other|additional"
    r"|residual|right|left|bilateral|midline|indwelling|support|tubes?|lines?|catheters?"
    r"|(?:left|right)-sided|sided|upper|lower|extremity|arm|two|three|one\s+of|seen|noted|basal|basilar|apical"
    r"|chest\s+wall|dual|single|lumen|temporary|@+)[\s,/-]*|(?:and|or|nor|as\s+well\s+as)\s+)*"
)
_ABSENT_BEFORE = re.compile(rf"\b(?:no|without|w/o|absence\s+of|nor|negative\s+for)\s+{_FILLER}\Z")
_ABSENT_AFTER = re.compile(
    r"\s*(?:is|are|was|were)\s+not\s+(?:\w+ly\s+)?(?:seen|present|visible|visuali[sz]ed|identified|in\s+place)\b"
    r"|\s*(?:is|are)\s+absent\b"
)
_REMOVED_BEFORE = re.compile(
    rf"\b(?:removal\s+of|removed|remove|discontinu\w+(?:\s+of)?|explant\w*(?:\s+of)?|withdrawal\s+of)\s+{_FILLER}\Z"
)
_REMOVED_AFTER = re.compile(
    r"[\s,]*(?:(?:has|have|had|is|are|was|were|been|being|now|also|since|interval(?:ly)?|subsequently|both|all"
    r"|in\s+the\s+interval|previously\s+(?:seen|noted)|seen\s+(?:previously|on\s+\w+))[\s,]+)*"
    r"(?:removed|removal|discontinued|taken\s+out|pulled(?!\s+back)|explanted|replaced\s+(?:by|with)|exchanged\s+for"
    r"|no\s+longer)\b"
)
_HYPOTHETICAL_BEFORE = re.compile(
    r"\b(?:recommend\w*|consider\w*|need\s+for|candidate\s+for|planned|prior\s+to|before|history\s+of|attempted|failed"
    rf"|unsuccessful|versus|suggesting|previous|prior)\s+(?:(?:placement|insertion)\s+(?:of\s+)?)?{_FILLER}\Z"
)
_FORMER_SITE = re.compile(r"\s*(?:site|tract|scar|defect|track)s?\b")
_JOIN = re.compile(
    rf"(?:[\s,/&]|\band\b|\bor\b|\bas well as\b|\bplus\b|{_FILLER}|\b(?:stable|indwelling|sided|dialysis|small|large"
    r"|bore)\b|-)*\Z"
)
_CLAUSE_BREAK = re.compile(r";|,|\band\b|\bwith\b|\bwhile\b|\bbut\b|\bthen\b")
_CONTINUES = re.compile(
    r"(?:the|its|their|this|these|with|both)?\s*(?:(?:distal|catheter|tube|line|latter|proximal)(?:'s)?\s+)*(?:tips?"
    r"|side[- ]?ports?|side[- ]?holes?|catheters?|tubes?|lines?|it|this|these|they|device)\b"
    r"|(?:recommend\w*|consider|suggest)?\s*(?:reposition\w*|advanc\w*|retract\w*|withdraw\w*|pulling\s+back)"
    r"|recommend\s+(?:reposition|advanc|retract|withdraw)"
)
_OWN_TIP = re.compile(r"(?:\s+(?:with|has))?(?:\s+(?:its|the|an?|catheter))?\s+tip\b")
_NEW_DEVICE = re.compile(r"\b(?:second|another|additional|third|separate)\b")
_ADVICE = re.compile(
    r"\b(?:recommend|suggest|advis|consider|should|needs?\b|could|requir|reposition|advanc|retract|withdraw).*", re.DOTALL
)

_MOVE = r"(?:re-?position|advanc|retract|withdraw|pull(?:ed|ing)?\s+back|re-?adjust|adjust)\w*"
_ADVISE = r"(?:recommend|suggest|advis|consider|requir|should|need|could|would|warrant|indicated)\w*"
_INCORRECT = re.compile(
    rf"\b{_ADVISE}[^.;]{{0,60}}?{_MOVE}|\b{_MOVE}[^.;]{{0,60}}?\b{_ADVISE}|\bmal-?\s?(?:position|plac)\w*|\bmisplac\w*"
    r"|\bkink\w*|\bcoil\w*|\bloop(?:s|ed|ing)?\b|\bdoubled\b|\bfolded\b|\bcurled\b"
    r"|suboptimal\w*|\btoo\s+(?:high|low|far|deep)|\b(?:high|low)[- ](?:in\s+)?(?:position|lying|riding|placement)\w*"
    r"|retroflexed|knotted|\bdislodged|\bdisconnected|incorrect\w*|inappropriate\w*|unsatisfactory"
)
_NEGATED = re.compile(r"\b(?:no|not|without|nor|never|neither)\s+(?:\w+\s+){0,3}\Z")
_POSITION = r"(?:position(?:ing|ed)?|locations?|placement|alignment|course)\b"
# "in the expected location of the subclavian vein" says where, not that it is right.
_OWN = r"(?!\s+(?:of|for|in|within)\s+(?!(?:the\s+|an?\s+)?(?:(?:left|right|bilateral)\S*\s+)?@))"
_CORRECT = re.compile(
    r"\b(?:good|satisfactory|appropriate|standard|adequate|acceptable|proper|usual|ideal|optimal|correct|expected"
    rf"|normal|unremarkable)\s+(?:and\s+\w+\s+)?{_POSITION}{_OWN}"
    r"|\b(?:well|appropriately|satisfactorily|adequately|properly|correctly|optimally)[- ](?:positioned|placed|located"
    r"|seated)|\bposition\w*\s+(?:is|are|appears?)\s+(?:\w+ly\s+)?(?:satisfactory|appropriate|good|adequate|acceptable"
    r"|standard)"
)
_UNCHANGED = re.compile(
    r"\bin\s+(?:place|situ|position)\b|\bstable\b|\bunchanged\b|\bno\s+(?:\w+\s+){0,2}change\b"
    r"|\bnot\s+(?:\w+ly\s+)?changed\b|\b(?:same|similar)\s+(?:position|location|placement)\b"
    r"|\bsimilar(?:ly)?\s+(?:in\s+)?position"
)
_ELSEWHERE = re.compile(
    r"(?:,|\bwith(?:out)?\b|\band\b|\bfor\b)[^.;,]*?\b(?:pneumothora|effusion|opaci|atelect|hydropneumo|emphysema"
    r"|consolidat|edema|heart|lung|cardio|mediastinal contour)\w*.*",
    re.DOTALL,
)
_TIP_WORD = re.compile(
    r"\btips?\b|\bterminat\w+|\bend(?:s|ing)\b|\bextend\w*|\bproject\w*|\boverl(?:ies|ying|ie)\b|\bdirected\b"
)
_TIP_DESCRIBED = re.compile(
    r"\btips?\b[^.;]{0,40}?\b(?:in|at|over|within|overlying|near|project\w*|terminat\w*|not|obscured|indeterminate"
    r"|difficult|poorly|above|below)\b|\bterminat\w+\s+(?:in|at|over)|\btip\s+obscured"
)
_DISTANCE = re.compile(
    r"(?P<value>\d+(?:\.\d+)?)(?:\s*(?:-|to)\s*\d+(?:\.\d+)?)?\s*(?P<unit>cm|mm|centimeters?"
    r"|millimeters?)\s+(?P<direction>above|proximal\s+to|superior\s+to|cephalad\s+to|from|below|inferior\s+to"
    r"|caudal\s+to|distal\s+to|beyond|past)\s+"
    r"(?:(?:the|top|level|superior|upper|margin|aspect|border|apex|of|tip)\s+)*(?P<landmark>carina"
    r"|(?:aortic\s+)?(?:arch|knob))"
)
_SIDE_BEFORE = re.compile(
    r"\b(?P<side>left\s+and\s+right|right\s+and\s+left|left|right|bilateral|bibasilar|biapical|both|midline"
    r"|bilaterally)(?:[- ]?sided)?[\s-]+(?:(?!(?:and|with|of|no|lung|lobe|in|at|pleural\s+effusion|effusion"
    r"|pneumothorax)\b)[\w-]+[\s,-]+){0,4}\Z"
)
_SIDE_INSIDE = re.compile(r"\b(?P<side>left|right)\b")
_SIDE_AFTER = re.compile(
    r"[^.;,]{0,40}?(?:\b(?P<side>left|right)[- ](?:sided|approach|arm|upper\s+extremity|chest\s+wall|side|ij"
    r"|internal\s+jugular\s+approach|subclavian\s+approach|basilic|brachial)\b"
    r"|\b(?:on|from)\s+the\s+(?P<side_2>left|right)\b(?!\s+(?:\w+)))"
)
_SIDE_CHEST = re.compile(
    r"\b(?P<side>left|right|bilateral(?:ly)?)\b(?!\s+(?:\w+\s+){0,2}(?:effusion|pneumothora|atelect|opaci))"
)
_COUNT = re.compile(r"\b(?P<count>two|2|three|3|four|4|both|multiple)\s+(?:(?!and\b)[\w-]+\s+){0,3}\Z")
_COUNTS = {"two": 2, "2": 2, "both": 2, "multiple": 2, "three": 3, "3": 3, "four": 4, "4": 4}
# Kinds of one type that are never the same device.
_KINDS = {
    "dialysis": re.compile(r"dialysis|hickman|perma|quinton|vas-?cath|sheath"),
    "feeding": re.compile(r"feed|hoff|dht|corpak|weighted"),
    "gastric": re.compile(r"gastric|\b[no]g|sump"),
}
_PACEMAKER = re.compile(r"\s*(?:\w+[\s-]+){0,3}?(?:pace|icd\b|aicd|defibrillator|lead)")
_EXTUBATED = re.compile(r"\bextubat\w*")
_INTUBATED = re.compile(r"(?<!not )\bintubated\b")

_COLLECTION = re.compile(
    r"pleural\s+(?:effusions?|fluid)|\beffusions?\b|(?:hydro|hemo)?pneumothora\w+|h[a]?emothora\w+|hydrothora\w+"
)
_SIZEABLE = re.compile(
    r"\b(?:moderate\w*|large|massive|sizeable|sizable|extensive|tension|significant)\b(?!\s+(?:change|interval|improve"
    r"|decrease))"
)
_LARGER = re.compile(
    r"\b(?:increas(?:ed|ing|e)|enlarg(?:ed|ing)|larger|worse|worsen(?:ed|ing)|progress(?:ed|ion|ing|ive)|expanding)\b"
)
_WINDOW_BREAK = re.compile(
    r"[;,]|\bbut\b|\band\b(?=\s+(?:an?\s+)?(?:small|moderate|large|left|right|no|stable|trace|tiny))|\bwith\b"
    r"|\bwithout\b|\bno\b"
)


@dataclass(frozen=True)
class Device:
    """One physical device, or a statement that it is not there."""

    type: str
    side: str
    tip: str
    placement: str
    removed: bool
    absent: bool
    sentence: str
    text_index: int
    is_additional: bool = False
    kind: str = ""

    @property
    def present(self) -> bool:
        return not (self.removed or self.absent)

    def entry(self) -> dict[str, str | bool]:
        return {
            "type": self.type,
            "side": self.side,
            "tip": self.tip,
            "placement": self.placement,
            "removed": self.removed,
            "sentence": self.sentence,
            "engine": "rules",
        }


@dataclass(frozen=True)
class _Mention:
    type: str
    start: int
    end: int


def extract_lines_and_tubes(sections: Mapping[str, Any], engine: str = "rules") -> list[dict[str, str | bool]]:
    """Lines and tubes that a report sees in its image, one entry per physical device, in the order of the report.

    Placement, in the paper's order: a stated malposition or advice to move it is incorrect; a chest tube beside an effusion or
    pneumothorax of its side that is at least moderate or larger than before is incorrect; "in good position" is correct; a tip
    in a wrong place is incorrect; "stable", "in place" are correct; else the tip decides (`ontology.TIP_PLACEMENT`).

    Args:
        sections: as returned by `split_sections`; `findings` or `impression` must be a key. Only they (and an addendum) are
            evidence.
        engine: "rules".

    Returns:
        Entries with type (`TUBES`, or "CVC": route not stated), side (left, right, midline, N/A), tip (keys of
        `TIP_PLACEMENT[type]`, unclear, N/A), placement (correct, incorrect, unclear, N/A), removed (then placement is N/A),
        sentence (verbatim), engine. A device that is denied has no entry.

    Raises:
        InputError: unknown engine, or sections that are no dict of texts with findings or impression.
    """
    check_engine(engine)
    return [device.entry() for device in find_devices(evidence(sections)) if not device.absent]


def find_devices(texts: Mapping[str, str]) -> list[Device]:
    """Devices of the evidence texts, merged over texts; denied devices are included with `absent`."""
    lowered = {name: _SPACES.sub(" ", text).lower() for name, text in texts.items()}
    if not any(stem in text for text in lowered.values() for stem in _STEMS):
        return []
    devices: list[Device] = []
    for index, (name, text) in enumerate(texts.items()):
        # Lower-casing keeps the length of all but a few characters that no report contains; without that, no verbatim sentence.
        lower = (
            lowered[name] if len(lowered[name]) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
        )
        for device in _text_devices(text, lower, index):
            _merge(devices, device)
    sides = _collection_sides(lowered.values()) if any(device.type == "CT" for device in devices) else frozenset()
    return [replace(d, placement="incorrect") if d.type == "CT" and d.present and d.side in sides else d for d in devices]


def unnamed_devices(texts: Mapping[str, str]) -> bool:
    """Whether devices are spoken of without a name, such as "support lines are unchanged"."""
    lowered = " ".join(texts.values()).lower()
    return bool(_UNNAMED.search(lowered)) and not _UNNAMED_ABSENT.search(lowered)


def study_states(texts: Mapping[str, str]) -> dict[str, str]:
    """State of the ten types and of "NT" (no tubes) for one study: positive, negative or uncertain; a type not mentioned is
    left out.

    A central venous catheter of unknown route makes the three routes uncertain unless they are stated, and devices without a
    name make "NT" uncertain. Texts that are all empty state nothing.
    """
    if not texts:
        return {}
    devices = find_devices(texts)
    present = {device.type for device in devices if device.present}
    states = {device.type: "negative" for device in devices if device.type in TUBES}
    if UNROUTED in present:
        states |= {type_: "uncertain" for type_ in ("IJ", "PICC", "SC") if type_ not in states}
    states |= {type_: "positive" for type_ in present if type_ in TUBES}
    if present:
        states["NT"] = "negative"
    else:
        states["NT"] = "uncertain" if unnamed_devices(texts) else "positive"
    return {task: states[task] for task in (*TUBES, "NT") if task in states}


def _text_devices(text: str, lower: str, text_index: int) -> list[Device]:
    devices: list[Device] = []
    open_group: list[int] = []
    open_attributes, open_start = "", 0
    for start, end in sentence_spans(text):
        sentence = lower[start:end]
        mentions = _mentions(sentence) if any(stem in sentence for stem in _STEMS) else []
        if not mentions:
            if open_group and _CONTINUES.match(sentence):
                open_attributes = f"{open_attributes} . {sentence}"
                for index in open_group:
                    devices[index] = _described(devices[index], open_attributes, text[open_start:end])
            else:
                open_group = []
            continue
        groups = _groups(sentence, mentions)
        for number, group in enumerate(groups):
            before, after = _surroundings(sentence, groups, number)
            found = [d for m in group for d in _mention_devices(sentence, m, group, before, after, text[start:end], text_index)]
            open_group = list(range(len(devices), len(devices) + len(found)))
            open_attributes, open_start = f"{before}@{after}", start
            devices += found
    return devices


def _mentions(sentence: str) -> list[_Mention]:
    found: list[_Mention] = []
    for match in _MENTION.finditer(sentence):
        type_ = str(match.lastgroup)
        if type_ == "skip" or (type_ in ("SC", "IJ") and _PACEMAKER.match(sentence, match.end())):
            continue
        mention = _Mention(type_, match.start(), match.end())
        if found and (joined := _same_device(sentence, found[-1], mention)):
            found[-1] = joined
        else:
            found.append(mention)
    if not any(mention.type == "ETT" for mention in found):
        intubation = _EXTUBATED.search(sentence) or _INTUBATED.search(sentence)
        if intubation:
            found = sorted([*found, _Mention("ETT", intubation.start(), intubation.end())], key=lambda mention: mention.start)
    return found


_ROUTE_JOIN = re.compile(
    r"[\s-]*(?:\(|(?:vein|approach|central|venous|tunneled|dual|double|triple|single|lumen|right|left|sided|access"
    r"|placed|inserted|catheter|chest|wall|large|bore|\))[\s-]*)*\Z"
)


def _same_device(sentence: str, first: _Mention, second: _Mention) -> _Mention | None:
    """Route and device named side by side: "IJ approach Swan-Ganz", "central line via the right IJ", "subclavian port"."""
    types = {first.type, second.type}
    if not types <= (_CENTRAL | {"SGC"}) or not _ROUTE_JOIN.match(sentence[first.end : second.start]):
        return None
    for type_ in ("SGC", "PICC", "SC", "IJ", "CVC"):
        if type_ in types:
            return _Mention(type_, first.start, second.end)
    return None


def _groups(sentence: str, mentions: list[_Mention]) -> list[list[_Mention]]:
    groups = [[mentions[0]]]
    for mention in mentions[1:]:
        between = sentence[groups[-1][-1].end : mention.start]
        if _JOIN.match(between):
            groups[-1].append(mention)
        else:
            groups.append([mention])
    # "tracheostomy, PICC tip in the axilla": what follows belongs to the last device alone.
    return [part for group in groups for part in ([group[:-1], group[-1:]] if _own_tip(sentence, group) else [group])]


def _own_tip(sentence: str, group: list[_Mention]) -> bool:
    return len(group) > 1 and bool(_OWN_TIP.match(sentence, group[-1].end))


def _surroundings(sentence: str, groups: list[list[_Mention]], number: int) -> tuple[str, str]:
    """Text that belongs to a group, before and after it; the text between two groups is divided at the last clause break."""
    first, last = groups[number][0], groups[number][-1]
    left = _divide(sentence, groups[number - 1][-1].end, first.start) if number else 0
    right = _divide(sentence, last.end, groups[number + 1][0].start) if number + 1 < len(groups) else len(sentence)
    return sentence[left : first.start], sentence[last.end : right]


def _divide(sentence: str, start: int, end: int) -> int:
    breaks = [match.start() for match in _CLAUSE_BREAK.finditer(sentence, start, end)]
    return breaks[-1] if breaks else end


def _mention_devices(
    sentence: str, mention: _Mention, group: list[_Mention], before: str, after: str, verbatim: str, text_index: int
) -> list[Device]:
    masked = sentence[: group[0].start] + "".join(
        "@" * (m.end - m.start) + sentence[m.end : following]
        for m, following in zip(group, [*(m.start for m in group[1:]), len(sentence)], strict=True)
    )
    lead, tail = masked[: mention.start], sentence[group[-1].end :]
    words = sentence[mention.start : mention.end]
    removed = bool(
        _REMOVED_BEFORE.search(lead)
        or _REMOVED_AFTER.match(tail)
        or _REMOVED_AFTER.match(masked[mention.end :])
        or _EXTUBATED.match(words)
    )
    if not removed and (_HYPOTHETICAL_BEFORE.search(lead) or _FORMER_SITE.match(tail)):
        return []
    absent = not removed and bool(_ABSENT_BEFORE.search(lead) or _ABSENT_AFTER.match(tail))
    own_lead = sentence[
        max((m.end for m in group if m.end <= mention.start), default=group[0].start - len(before)) : mention.start
    ]
    own_tail = sentence[mention.end : min((m.start for m in group if m.start >= mention.end), default=mention.end)] + after
    side = _side(mention.type, own_lead, words, own_tail)
    device = Device(
        type=mention.type,
        side=side,
        tip="N/A",
        placement="N/A",
        removed=removed,
        absent=absent,
        sentence=verbatim,
        text_index=text_index,
        is_additional=bool(_NEW_DEVICE.search(own_lead)),
        kind=next((kind for kind, pattern in _KINDS.items() if pattern.search(words)), ""),
    )
    device = _described(device, f"{own_lead if mention.type == 'CT' else before}@{after}", verbatim)
    if side == "bilateral":
        return [replace(device, side="left"), replace(device, side="right")]
    return [replace(device, is_additional=device.is_additional or copy > 0) for copy in range(_count(words, own_lead, group))]


def _count(words: str, lead: str, group: list[_Mention]) -> int:
    if match := _COUNT.search(lead):
        return _COUNTS[match.group("count")]
    is_plural = words.endswith(("tubes", "drains", "catheters", "pigtails")) and len(group) == 1
    return 2 if is_plural and re.search(r"chest|pleural|thorac|mediast|pigtail|drain", words) else 1


def _side(type_: str, lead: str, words: str, tail: str) -> str:
    if type_ not in _SIDED:
        return "midline" if type_ in ("CT", "MD") and "midline" in lead else "N/A"
    match = _SIDE_BEFORE.search(lead) or _SIDE_INSIDE.search(words)
    if match is None and type_ == "CT":
        match = _SIDE_CHEST.search(_ELSEWHERE.sub("", tail))
    if match is None and (after := _SIDE_AFTER.match(tail)):
        return str(after.group("side") or after.group("side_2"))
    if match is None:
        return "N/A"
    side = match.group("side")
    return side if side in ("left", "right", "midline") else "bilateral"


def _described(device: Device, attributes: str, verbatim: str) -> Device:
    """The device with tip and placement read from what is said of it."""
    if not device.present:
        return replace(device, sentence=verbatim)
    if device.type == "CT":
        attributes = _ELSEWHERE.sub("", attributes)
    tip = _tip(device.type, attributes)
    return replace(device, tip=tip, placement=_placement(device.type, attributes, tip), sentence=verbatim)


def _tip(type_: str, attributes: str) -> str:
    text = _ADVICE.sub("", attributes)
    if distance := _DISTANCE.search(text):
        by_distance = _tip_by_distance(type_, distance)
        if by_distance is not None:
            return by_distance
    if type_ in _CENTRAL | {"SGC"}:
        words = list(_TIP_WORD.finditer(text))
        matches = _tip_matches(type_, text[words[-1].end() :]) if words else []
        matches = matches or _tip_matches(type_, text.partition("@")[2])
        # The first location named, the longer name where two begin together ("brachiocephalic-SVC junction").
        if matches:
            return min(matches)[2]
    else:
        located = text if type_ == "CT" else text.replace("@", " ")
        for pattern, tip in _TIPS[type_]:
            if pattern.search(located):
                return tip
    return "unclear" if _TIP_DESCRIBED.search(text) else "N/A"


def _tip_matches(type_: str, text: str) -> list[tuple[int, int, str]]:
    return [(match.start(), order, tip) for order, (pattern, tip) in enumerate(_TIPS[type_]) if (match := pattern.search(text))]


def _tip_by_distance(type_: str, distance: re.Match[str]) -> str | None:
    cm = float(distance.group("value")) * (0.1 if distance.group("unit").startswith("m") else 1.0)
    is_above = distance.group("direction").split()[0] in ("above", "proximal", "superior", "cephalad", "from")
    if distance.group("landmark") == "carina" and type_ in ("ETT", "TT"):
        if not is_above:
            return "main bronchus"
        if type_ == "TT":
            return "above carina"
        return "less than 2 cm above carina" if cm < 2 else "more than 7 cm above carina" if cm > 7 else "2-7 cm above carina"
    if distance.group("landmark") != "carina" and type_ == "IABP":
        if is_above and distance.group("direction") != "from":
            return "above aortic arch"
        return "aortic arch" if cm < 1 else "low descending or abdominal aorta" if cm > 5 else "proximal descending aorta"
    return None


def _placement(type_: str, attributes: str, tip: str) -> str:
    if any(not _NEGATED.search(attributes, 0, match.start()) for match in _INCORRECT.finditer(attributes)):
        return "incorrect"
    if any(not _NEGATED.search(attributes, 0, match.start()) for match in _CORRECT.finditer(attributes)):
        return "correct"
    by_tip = TIP_PLACEMENT[type_].get(tip, tip)
    if by_tip != "incorrect" and _UNCHANGED.search(attributes):
        return "correct"
    return by_tip


def _collection_sides(texts: Any) -> frozenset[str]:
    """Sides with an effusion or pneumothorax that is at least moderate or larger than before."""
    sides: set[str] = set()
    for text in texts:
        for start, end in sentence_spans(text):
            sentence = text[start:end]
            context: SentenceContext | None = None
            for match in _COLLECTION.finditer(sentence):
                context = context or SentenceContext(sentence)
                if context.assertion(match.start(), match.end()) is not Assertion.POSITIVE:
                    continue
                window = _window(sentence, match)
                larger = _LARGER.search(window)
                if _SIZEABLE.search(window) or (larger and not _NEGATED.search(window, 0, larger.start())):
                    sides |= _window_sides(window)
    return frozenset(sides)


def _window(sentence: str, match: re.Match[str]) -> str:
    breaks = [found.end() for found in _WINDOW_BREAK.finditer(sentence, 0, match.start())]
    following = _WINDOW_BREAK.search(sentence, match.end())
    return sentence[breaks[-1] if breaks else 0 : following.start() if following else len(sentence)]


def _window_sides(window: str) -> set[str]:
    if re.search(r"\bbilateral|\bboth\b|\bbibasilar", window):
        return {"left", "right"}
    return set(re.findall(r"\b(left|right)\b", window))


_KNOWLEDGE = {"incorrect": 3, "correct": 2, "unclear": 1, "N/A": 0}


def _merge(devices: list[Device], new: Device) -> None:
    """Add a mention to the list of devices, or to the device that it repeats."""
    for index, old in enumerate(devices):
        if _is_same(old, new):
            devices[index] = _united(old, new)
            return
    devices.append(new)


def _is_same(old: Device, new: Device) -> bool:
    if (old.removed, old.absent) != (new.removed, new.absent):
        return False
    if new.is_additional and old.text_index == new.text_index:
        return False
    if new.is_additional != old.is_additional and old.text_index != new.text_index:
        return False
    if old.type != new.type:
        types = {old.type, new.type}
        if UNROUTED not in types or not types <= _CENTRAL:
            return False
        if "PICC" in types and "dialysis" in (old.kind, new.kind):
            return False
    if {old.kind, new.kind} == {"feeding", "gastric"}:
        return False
    if old.side != new.side and "N/A" not in (old.side, new.side):
        return False
    tips_differ = old.tip != new.tip and not {"N/A", "unclear"} & {old.tip, new.tip}
    return not (new.type == "CT" and tips_differ and old.text_index == new.text_index)


def _united(old: Device, new: Device) -> Device:
    better = new if _KNOWLEDGE[new.placement] > _KNOWLEDGE[old.placement] or (old.tip == "N/A" and new.tip != "N/A") else old
    worse = old if better is new else new
    return replace(
        better,
        type=old.type if old.type != UNROUTED else new.type,
        side=better.side if better.side != "N/A" else worse.side,
        tip=better.tip if better.tip not in ("N/A", "unclear") else worse.tip if worse.tip != "N/A" else better.tip,
        placement=max(old.placement, new.placement, key=lambda placement: _KNOWLEDGE[placement]),
        text_index=new.text_index,
        is_additional=old.is_additional,
        kind=old.kind or new.kind,
    )
