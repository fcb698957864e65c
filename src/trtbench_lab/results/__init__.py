"""Results of runs: dataclasses, their database, their plain and HTML views; imports the standard library only."""

from .base import Result, migration, result_class
from .environment import collect_environment
from .render import Table

__all__ = ["Result", "Table", "collect_environment", "migration", "result_class"]
