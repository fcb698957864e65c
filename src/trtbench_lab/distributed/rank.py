"""What runs inside a rank: getting ready, and one cell."""

from __future__ import annotations

import ast
import os
import pickle
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from ..progress import ProgressEvent, ProgressSink
from ..ranks.launch import ALONE, OWN_GPU
from ..ranks.shared_names import forget_own_names

PUBLISHER = "trt_rank_progress"
"""Attribute of a rank's shell: the sink that sends progress to the notebook."""
_PUBLISH_EVERY_S = 0.1
_FLUSH_S = 0.05
_MOST_VALUE_BYTES = 256 << 20


@dataclass(frozen=True)
class RankInfo:
    """Who a rank is, as it says itself once it runs."""

    rank: int
    world_size: int
    host: str
    pid: int
    gpu: str | None


@dataclass(frozen=True)
class Failure:
    """An exception in a rank.

    Attributes
    ----------
    kind, message
        Class and text of the exception.
    traceback
        Lines as IPython shows them, with colours.
    place
        File and line of each frame of the cell's own: equal for the same error on several ranks.
    """

    kind: str
    message: str
    traceback: tuple[str, ...]
    place: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a cell left in one rank.

    Attributes
    ----------
    rank, seconds
        Where, and how long it took there.
    value
        The variable that was asked for, else the value of the last expression; None without either.
    failure
        Why it ended early; None where it did not.
    note
        What kept `value` from travelling as it is; empty where nothing did.
    """

    rank: int
    seconds: float
    value: Any = None
    failure: Failure | None = None
    note: str = ""


def prepare(tp_size: int, pp_size: int) -> RankInfo:
    """Fill the rank's namespace and return who it is; every rank is asked once, after it has started."""
    from IPython import get_ipython
    from mpi4py import MPI

    from ..specs import Mapping

    shell = get_ipython()
    world = MPI.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    world.Barrier()
    forget_own_names()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "flush_interval"):
            stream.flush_interval = _FLUSH_S
    info = RankInfo(rank, size, socket.gethostname(), os.getpid(), os.environ.get(OWN_GPU) or None)
    if size == tp_size * pp_size:
        shell.user_ns.update(
            rank=rank,
            world_size=size,
            comm=world,
            mapping=Mapping(tp_size=tp_size, pp_size=pp_size, rank=rank),
            progress=_publisher(shell),
        )
        setattr(shell, PUBLISHER, shell.user_ns["progress"])
        shell.run_line_magic("load_ext", "trtbench_lab")
    return info


def run_cell(
    text: str,
    code_name: str,
    name: str | None,
    folder: str,
    *,
    wants_value: bool = True,
    fresh_communicators: bool = False,
    alone: bool = False,
) -> Outcome:
    """Run the text of a cell in this rank's namespace; what it prints goes to the notebook while it runs.

    Parameters
    ----------
    text
        The cell, magics included.
    code_name
        What tracebacks and stacks call it.
    name
        Variable whose value is brought back, where the cell sets it; the value of the last expression otherwise.
    folder
        The notebook's folder; the rank goes there where it has it.
    wants_value
        Whether a value is brought back at all.
    alone
        Whether other ranks of the world do not run it: then verbs run here as in a process of its own.
    fresh_communicators
        Whether an earlier cell may have left messages under way: then new communicators take the old ones' places.
    """
    from IPython import get_ipython

    shell = get_ipython()
    rank = shell.user_ns["rank"] if isinstance(shell.user_ns.get("rank"), int) else _mpi_rank()
    if fresh_communicators:
        _renew_communicators(shell)
    if os.path.isdir(folder) and folder != os.getcwd():
        os.chdir(folder)
    caught: list[Failure] = []
    held = None if name is None else shell.user_ns.get(name)

    def keep_traceback(kind: type, error: BaseException, lines: list[str]) -> None:
        caught.append(Failure(kind.__name__, str(error), tuple(lines), _places(error, code_name)))

    compiler = shell.compile
    began = time.monotonic()
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    shell._showtraceback = keep_traceback
    if alone:
        _set_apart()
    compiler.get_code_name = lambda *_: code_name
    late: Exception | None = None
    try:
        result = shell.run_cell(text, store_history=False)
        if result.success:
            late = wait_for_gpu()
    finally:
        if alone:
            _join_again()
        del shell._showtraceback, compiler.get_code_name
        signal.signal(signal.SIGINT, earlier)
    seconds = time.monotonic() - began
    if not result.success:
        error = result.error_before_exec or result.error_in_exec
        failure = caught[-1] if caught else Failure(type(error).__name__, str(error), ())
        return Outcome(rank, seconds, failure=failure)
    if late is not None:
        return Outcome(rank, seconds, failure=Failure(type(late).__name__, str(late), (str(late),)))
    if not wants_value:
        return Outcome(rank, seconds)
    value = result.result
    if name is not None:
        found = shell.user_ns.get(name)
        # A magic's own -o gives it a value that the cell's text does not show.
        if found is not held or name in _assigned(shell.transform_cell(text)):
            value = found
    value, note = _portable(value)
    return Outcome(rank, seconds, value, note=note)


def wait_for_gpu() -> Exception | None:
    """Wait for what the cell has queued on this rank's GPU; return what went wrong there.

    A collective that another rank never joins is the fault of this cell, and the next one would hang in it.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:  # CUDA's errors come when somebody waits
        return error
    return None


def _set_apart() -> None:
    os.environ[ALONE] = "1"


def _join_again() -> None:
    """Let verbs work with the other ranks again, and forget that there was nobody to talk to."""
    del os.environ[ALONE]
    world = sys.modules.get("trtbench_lab.ranks.world")
    if world is not None and world.control.cache_info().currsize and world.control() is None:
        world.control.cache_clear()


def _mpi_rank() -> int:
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.Get_rank())


def _renew_communicators(shell: Any) -> None:
    """Put new communicators in the places of those on which a failed cell may have left half a collective.

    Every rank must do so, in the same order.
    """
    from mpi4py import MPI

    shell.user_ns["comm"] = MPI.COMM_WORLD.Dup()
    if (world := sys.modules.get("trtbench_lab.ranks.world")) is not None:
        world.control.cache_clear()
        world._communicators.clear()


def _publisher(shell: Any) -> ProgressSink:
    last = 0.0

    def publish(event: ProgressEvent) -> None:
        nonlocal last
        now = time.monotonic()
        if event.state == "running" and now - last < _PUBLISH_EVERY_S:
            return
        last = now
        shell.data_pub.publish_data({"progress": event})

    return publish


def _places(error: BaseException, code_name: str) -> tuple[tuple[str, int], ...]:
    found, trace = [], error.__traceback__
    while trace is not None:
        found.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    first = next((index for index, (file, _) in enumerate(found) if file == code_name), 0)
    return tuple(found[first:])


def _assigned(text: str) -> set[str]:
    """Return the names that a cell gives values to, at its own level and in its loops."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return set()
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name | ast.FunctionDef | ast.ClassDef)]
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.name for node in nodes if not isinstance(node, ast.Name)}


def _portable(value: Any) -> tuple[Any, str]:
    """Return a value that can travel to the notebook, and what was lost on the way."""
    if value is None or isinstance(value, bool | int | float | str):
        return value, ""
    value = _on_cpu(value)
    try:
        data = pickle.dumps(value, protocol=5)
    except Exception as error:  # whatever a class's own pickling raises
        return repr(value), f"{type(value).__name__} cannot leave its rank ({type(error).__name__}); its text is kept."
    if len(data) > _MOST_VALUE_BYTES:
        return repr(
            value
        ), f"{len(data) >> 20} MiB stay in their rank (at most {_MOST_VALUE_BYTES >> 20}); text is kept."
    return value, ""


def _on_cpu(value: Any) -> Any:
    """A tensor of a rank's GPU would ask the notebook for that GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor) and value.is_cuda:
        return value.cpu()
    return value
