"""`%%trt_mpi`: a cell of the notebook on several ranks; the line's world is started where none runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import SpecError
from ..progress import ProgressSink
from ..specs.requests import MpiSpec
from .rank_view import RankView

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..distributed.world import World


def run_rank_cell(
    spec: MpiSpec, cell: str, shell: InteractiveShell, *, name: str | None, progress: ProgressSink, quiet: bool
) -> Any:
    """Run `cell` as `spec` asks; return the results by rank where `name` asks for them, a pending cell with `noblock`.

    Raises
    ------
    RankError
        When the cell failed on a rank.
    WorldError
        When the ranks do not start.
    """
    if spec.given("action"):
        raise SpecError(
            f"{spec.action!r} stands on a line of its own, without a cell.",
            where="%%trt_mpi",
            remedy=f"Write %trt_mpi {spec.action}.",
        )
    world = _world_for(spec, progress)
    view = RankView(shell, world.world_size, only_rank=0 if spec.rank0_only else None, quiet=quiet)
    if spec.noblock:
        view.show_at_once(spec.ranks or range(world.world_size))
    run = world.run_in_background if spec.noblock else world.run
    result = run(
        cell,
        ranks=spec.ranks or None,
        name=name,
        wants_value=name is not None,
        timeout_s=spec.timeout,
        grace_s=spec.grace,
        view=view,
    )
    return result if spec.noblock or name is not None else None


def _world_for(spec: MpiSpec, progress: ProgressSink) -> World:
    from ..distributed.world import current_world
    from ..workbench.ranks import started_world

    world = current_world()
    if world is None:
        return started_world(spec, progress)
    if spec.num_ranks not in (None, world.world_size):
        raise SpecError(
            f"{world.world_size} ranks run, and -n {spec.num_ranks} asks for others.",
            where="-n",
            remedy=f"Start others: %trt_mpi restart -n {spec.num_ranks}. A part of them runs a cell with --ranks 0,1.",
        )
    if world.state == "down":
        world.restart(progress)
    return world
