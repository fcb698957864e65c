"""What a world is to be: its ranks, how they are divided and where they run, checked before any process exists."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Self

from ..errors import SpecError
from ..ranks.gpus import gpus_here
from .slurm import SlurmOptions

_SILENT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class WorldShape:
    """What a world's processes are started from; `of` completes and checks what a user left open.

    Attributes
    ----------
    world_size, tp_size, pp_size
        Ranks, which are `tp_size` × `pp_size`.
    launcher, profile, slurm
        See `World`; the launcher ``"slurm"`` always has options of the job.
    start_timeout_s
        Seconds that the ranks may take to start; None for no limit.
    id
        Every process of the world carries it.
    """

    world_size: int
    tp_size: int
    pp_size: int
    launcher: str
    profile: str | None
    slurm: SlurmOptions | None
    start_timeout_s: float | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @classmethod
    def of(
        cls,
        ranks: int | None,
        *,
        launcher: str,
        profile: str | None,
        tp_size: int | None,
        pp_size: int,
        slurm: SlurmOptions | None,
        start_timeout_s: float | None,
    ) -> Self:
        """Return the shape that `World` is asked for.

        Raises
        ------
        SpecError
            For a launcher that there is not, and for ranks that the sizes do not divide.
        """
        if launcher not in ("local", "slurm"):
            raise SpecError(f"There is no launcher {launcher!r}.", where="launcher", remedy="Choose local or slurm.")
        if launcher == "slurm":
            slurm = slurm or SlurmOptions()
            ranks = ranks or (tp_size * pp_size if tp_size else None) or slurm.num_ranks
        world_size = ranks or (tp_size * pp_size if tp_size else max(2, len(gpus_here()), pp_size))
        tp_size = tp_size or max(1, world_size // pp_size)
        if tp_size * pp_size != world_size:
            raise SpecError(
                f"{world_size} ranks are not tp_size {tp_size} × pp_size {pp_size}.",
                where="-n",
                remedy=f"Start {tp_size * pp_size} ranks, or change --tp_size and --pp_size.",
            )
        return cls(
            world_size=world_size,
            tp_size=tp_size,
            pp_size=pp_size,
            launcher=launcher,
            profile=profile,
            slurm=slurm,
            start_timeout_s=start_timeout_s if start_timeout_s or launcher == "slurm" else _SILENT_S,
        )
