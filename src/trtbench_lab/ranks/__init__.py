"""The processes that compute one model together: who they are, how they talk, what rank 0 tells the others.

Two planes. Data (hidden states, sums, logits) goes by MPI between CPUs and by NCCL between GPUs. Control (what to run
next, a few hundred bytes) goes from rank 0 to the others by MPI, or by torch's store where no MPI started the ranks.
"""

from __future__ import annotations

from .launch import Launch, launched
from .protocol import Control, RankCommunicator
from .world import communicator_for, control

__all__ = ["Control", "Launch", "RankCommunicator", "communicator_for", "control", "launched"]
