"""What became of one feature on one machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

PASSED, FAILED, CRASHED, TIMED_OUT, NOT_RUN = "passed", "failed", "crashed", "timed out", "not run"
STATUSES = (PASSED, FAILED, CRASHED, TIMED_OUT, NOT_RUN)
BAD = (FAILED, CRASHED, TIMED_OUT)


@dataclass(frozen=True)
class Outcome:
    """The end of one trial.

    Attributes
    ----------
    feature
        Its name.
    status
        ``"passed"``; ``"failed"``: an error, or numbers beyond the bound; ``"crashed"``: the process died;
        ``"timed out"``; ``"not run"``: this machine lacks what it needs.
    reason
        Why it did not pass, as a sentence; empty otherwise.
    difference, bound
        Largest relative difference from the float32 reference, and what would have passed; None where nothing was
        compared.
    seconds
        Time of the child process.
    facts
        What else was measured, by name.
    """

    feature: str
    status: str
    reason: str = ""
    difference: float | None = None
    bound: float | None = None
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def bad(self) -> bool:
        """Whether engines must not rely on the feature here."""
        return self.status in BAD

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: Any) -> Outcome:
        """Read what `to_dict` wrote; raises `ValueError`, `TypeError` or `KeyError` for anything else."""
        known = {name: table[name] for name in cls.__dataclass_fields__ if name in table}
        made = cls(**known)
        if made.status not in STATUSES or not isinstance(made.feature, str):
            raise ValueError(f"{made.status!r} is no status")
        return made


def compared(feature: str, difference: float, bound: float, facts: dict[str, Any]) -> Outcome:
    """Return the outcome of a comparison; a difference that is no number fails."""
    if difference <= bound:
        return Outcome(feature, PASSED, "", difference, bound, facts=facts)
    reason = f"The results differ from the float32 reference by {difference:.2g} of its range; {bound:.2g} is allowed."
    return Outcome(feature, FAILED, reason, difference, bound, facts=facts)
