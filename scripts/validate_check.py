"""One row of what validation reports: a number known, the one found here, and how near they lie."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One row: what is known, what comes out here, and how far apart the two may lie."""

    group: str
    quantity: str
    unit: str
    reference: float
    ours: float
    tolerance: float
    relative: bool  # the tolerance and the deviation are shares of the reference
    source: str

    @property
    def deviation(self) -> float:
        apart = self.ours - self.reference
        return apart / abs(self.reference) if self.relative else apart

    @property
    def passed(self) -> bool:
        return bool(abs(self.deviation) <= self.tolerance)  # NaN fails
