"""What a score is called, which way it is better, and how it is printed."""

import math
from dataclasses import dataclass

from radscale.analysis.data_plan import MIN_GAIN


@dataclass(frozen=True)
class Measure:
    """One measure of the results table."""

    key: str
    """Column of the results table."""
    name: str
    unit: str
    """Of printed numbers."""
    scale: float
    """Printed numbers are scores times this."""
    larger_is_better: bool
    best: float
    """Where the score ends, whatever a law says."""
    min_gain: float
    """A gain that is worth having, in units of the score."""
    widest: float
    """Width of an interval beyond which an extrapolation says nothing, in units of the score."""

    @property
    def sign(self) -> int:
        """A difference times this is above 0 if the first of both is better."""
        return 1 if self.larger_is_better else -1

    @property
    def title(self) -> str:
        """For axes: name, unit and, where it is not what readers expect, the direction."""
        return f"{self.name}, {self.unit}" + ("" if self.larger_is_better else " (lower is better)")

    def show(self, value: float, digits: int = 1) -> str:
        """A score as it is printed; a dash if it is not known."""
        return "–" if math.isnan(value) else f"{self.scale * value:.{digits}f}"

    def signed(self, value: float, digits: int = 1) -> str:
        """A difference with its sign, as it is printed."""
        if math.isnan(value):
            return "–"
        value = round(self.scale * value, digits) + 0.0  # no negative zero
        return f"{value:+.{digits}f}".replace("-", "−") if value else f"{0:.{digits}f}"


AUPRC = Measure("auprc", "AUPRC", "points", 100.0, True, best=1.0, min_gain=MIN_GAIN, widest=0.3)
HAUSDORFF = Measure("hausdorff_px", "Hausdorff distance", "px", 1.0, False, best=0.0, min_gain=1.0, widest=100.0)
DICE = Measure("dice", "Dice", "points", 100.0, True, best=1.0, min_gain=MIN_GAIN, widest=0.3)
OF_SEGMENTATION = (HAUSDORFF, DICE)
"""Analysed in full: the paper's headline (Table 5, Figure 4), and its Figure 6."""
