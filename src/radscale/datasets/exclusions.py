"""Why an input is not in the dataset. Nothing is lost silently: every input is a row of the manifest or of the exclusions."""

REASONS = (
    "unreadable",
    "no_pixels",
    "unsupported",
    "too_small",
    "constant_image",
    "duplicate",
    "missing_file",
    "no_patient",
    "publisher",
    "too_large",
    "hung",
    "crashed",
    "outlier",
    "near_duplicate",
)


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
