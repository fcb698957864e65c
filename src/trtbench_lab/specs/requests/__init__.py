"""One request a verb: what its command line, magic and panel fill in, and the workbench takes."""

from ..spec import Spec
from .bench import BenchSpec, DoctorSpec, HistorySpec
from .build import BuildSpec
from .convert import ConvertSpec
from .download import DownloadSpec
from .explore import ExploreSpec, LintSpec
from .mpi import MpiSpec
from .plan import PlanSpec, ReportSpec
from .quantize import QuantizeSpec
from .run import CompareSpec, RunSpec, SummarizeSpec

REQUESTS: dict[str, type[Spec]] = {
    "doctor": DoctorSpec,
    "plan": PlanSpec,
    "download": DownloadSpec,
    "convert": ConvertSpec,
    "quantize": QuantizeSpec,
    "build": BuildSpec,
    "run": RunSpec,
    "compare": CompareSpec,
    "summarize": SummarizeSpec,
    "bench": BenchSpec,
    "explore": ExploreSpec,
    "lint": LintSpec,
    "history": HistorySpec,
    "mpi": MpiSpec,
    "report": ReportSpec,
}
"""Verb → the spec of its request, in the order of the path through the workbench."""

__all__ = [
    "REQUESTS",
    "BenchSpec",
    "BuildSpec",
    "CompareSpec",
    "ConvertSpec",
    "DoctorSpec",
    "DownloadSpec",
    "ExploreSpec",
    "HistorySpec",
    "LintSpec",
    "MpiSpec",
    "PlanSpec",
    "QuantizeSpec",
    "ReportSpec",
    "RunSpec",
    "SummarizeSpec",
]
