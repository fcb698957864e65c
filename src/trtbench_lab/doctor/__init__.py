"""Look over this machine: what is there, what is missing, what each backend can do here, and what to do about it."""

from .examination import examine
from .report import DoctorReport, DoctorRow

__all__ = ["DoctorReport", "DoctorRow", "examine"]
