"""Results of runs: dataclasses, their database, their plain and HTML views; imports the standard library only."""

from .base import Result, migration, result_class
from .catalogue import METRICS, direction_of, metric_of
from .comparison import Comparison, compare_results
from .database import ResultsDatabase
from .environment import collect_environment
from .history import HistoryView
from .metric import Metric
from .render import Table
from .statistics import Distribution, distribution, percentile

__all__ = [
    "METRICS",
    "Comparison",
    "Distribution",
    "HistoryView",
    "Metric",
    "Result",
    "ResultsDatabase",
    "Table",
    "collect_environment",
    "compare_results",
    "direction_of",
    "distribution",
    "metric_of",
    "migration",
    "percentile",
    "result_class",
]
