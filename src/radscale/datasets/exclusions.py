"""Why an input is not in the dataset. Nothing is lost silently: every input is a row of the manifest or of the exclusions."""

REASONS = {
    "unreadable": "no readable image",
    "no_pixels": "no pixels",
    "unsupported": "kind of image that is not read",
    "too_small": "too small",
    "constant_image": "one value everywhere",
    "duplicate": "the same pixels or the same id again",
    "missing_file": "file is missing",
    "no_patient": "patient is not named",
    "face": "image of a skull or a face",
    "publisher": "the publisher says not to use it",
    "too_large": "too large",
    "hung": "not decoded in time",
    "crashed": "ended the process that decoded it",
    "not_selected": "set aside: another image of its kind and visit was chosen",
    "outlier": "set aside: unlike all others",
    "near_duplicate": "set aside: near duplicate",
    "review": "set aside: a reviewer rejected it",
}
"""Reason -> what it says to a person."""


class Excluded(Exception):  # noqa: N818 - it is a verdict on one input, not an error of the run
    """One input that cannot be used.

    Args:
        reason: one of `REASONS`.
        detail: one line for a person, without identifying values.
    """

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(detail)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type["Excluded"], tuple[str, str]]:
        return (Excluded, (self.reason, self.detail))
