"""Matrix products of linear layers: dense and quantized, for one row or many, with what surrounds them fused in.

Engines call `linear` with a `Choice` that `tune` measured; the plugins of the same kernels are in `plugins`.
"""

from .choice import Choice, Problem
from .launch import Norm, Workspace, default_choice, linear, problem_of
from .tuning import tune
from .weights import LinearWeights

__all__ = ["Choice", "LinearWeights", "Norm", "Problem", "Workspace", "default_choice", "linear", "problem_of", "tune"]
