"""Start, show, restart and stop the ranks of this notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import SpecError
from ..progress import ProgressSink
from ..specs.requests import MpiSpec

if TYPE_CHECKING:
    from ..distributed.report import JobPlan, WorldReport
    from ..distributed.slurm import SlurmOptions
    from ..distributed.world import World

_SHAPE = ("num_ranks", "tp_size", "pp_size", "launcher", "profile")


def mpi(spec: MpiSpec, *, progress: ProgressSink | None = None) -> WorldReport | JobPlan:
    """Do what `spec.action` says with the ranks of this process and return how they are.

    Raises
    ------
    WorldError
        When ranks do not start, with the launcher's own reason.
    """
    from ..distributed.report import JobPlan, WorldReport
    from ..distributed.world import current_world

    if spec.dry_run:
        if spec.launcher != "slurm":
            raise SpecError(
                "A dry run shows a Slurm job.", where="--dry_run", remedy="Add --launcher slurm, or leave it out."
            )
        return JobPlan.of(slurm_options(spec), spec.command)
    world = current_world()
    if spec.action == "start":
        if world is not None and world.state != "stopped":
            raise SpecError(
                f"{world.world_size} ranks run already.",
                where="%trt_mpi start",
                remedy="%trt_mpi restart -n N starts others in their place.",
            )
        world = started_world(spec, progress)
    elif spec.action == "restart":
        if world is None or any(spec.given(name) for name in _SHAPE):
            if world is not None:
                world.stop()
            world = started_world(spec, progress)
        else:
            world.restart(progress)
    elif spec.action == "stop" and world is not None:
        world.stop()
        world = None
    if world is None:
        return WorldReport("stopped", spec.launcher, ())
    return WorldReport(world.state, world.launcher, world.status())


def started_world(spec: MpiSpec, progress: ProgressSink | None = None) -> World:
    """Return a new world as the request describes it, started."""
    from ..distributed.world import World

    world = World(
        spec.num_ranks,
        launcher=spec.launcher,
        profile=spec.profile,
        tp_size=spec.tp_size,
        pp_size=spec.pp_size,
        slurm=slurm_options(spec) if spec.launcher == "slurm" else None,
    )
    world.start(progress)
    return world


def slurm_options(spec: MpiSpec) -> SlurmOptions:
    """Return the job's part of a request."""
    from ..distributed.slurm import SlurmOptions

    return SlurmOptions(
        nodes=spec.nodes,
        ntasks_per_node=spec.ntasks_per_node,
        gpus_per_node=spec.gpus_per_node,
        account=spec.account,
        partition=spec.partition,
        time_limit=spec.time,
        container_image=spec.container_image,
        container_mounts=spec.container_mounts,
        mpi=spec.srun_mpi,
        interface=spec.interface,
        shared_dir=spec.shared_dir,
        python=spec.python,
    )
