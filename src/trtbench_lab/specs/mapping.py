"""Which rank does what: tensor and pipeline parallelism over a world of ranks."""

from __future__ import annotations

from ..errors import SpecError
from .options import option
from .spec import Spec


class Mapping(Spec):
    """Layout of the ranks: neighbours share a layer (tensor parallel), groups of them follow each other (pipeline).

    With ``tp_size=2, pp_size=2`` the four ranks stand so::

        pipeline stage 0: rank 0, rank 1      (they share each layer of the first half)
        pipeline stage 1: rank 2, rank 3      (they share each layer of the second half)
    """

    world_size: int = option(
        default=0,
        help="Number of ranks; 0 stands for tp_size × pp_size.",
        minimum=0,
        derived=True,
        group="parallelism",
        effect="One engine file and one GPU a rank.",
    )
    rank: int = option(
        default=0, help="The rank concerned, from 0.", minimum=0, group="parallelism", command_line=False
    )
    tp_size: int = option(
        default=1,
        help="Ranks that share each layer (tensor parallelism).",
        minimum=1,
        flags=("--tp", "-tp", "--tensor-parallelism", "--tensor_parallel_size"),
        group="parallelism",
        effect="Divides weights and K/V cache of a layer; two all-reduces a layer.",
    )
    pp_size: int = option(
        default=1,
        help="Groups of layers that follow each other on different ranks (pipeline parallelism).",
        minimum=1,
        flags=("--pp", "-pp", "--pipeline-parallelism", "--pipeline_parallel_size"),
        group="parallelism",
        effect="Divides the layers; one transfer of the hidden state a stage.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.world_size == 0:
            object.__setattr__(self, "world_size", self.tp_size * self.pp_size)

    @property
    def tp_rank(self) -> int:
        """Place among the ranks that share a layer."""
        return self.rank % self.tp_size

    @property
    def pp_rank(self) -> int:
        """Pipeline stage of this rank."""
        return self.rank // self.tp_size

    @property
    def tp_group(self) -> list[int]:
        """Ranks that share layers with this one, itself included."""
        first = self.pp_rank * self.tp_size
        return list(range(first, first + self.tp_size))

    @property
    def pp_group(self) -> list[int]:
        """Ranks with the same shard number in every stage, in the order of the stages."""
        return list(range(self.tp_rank, self.tp_size * self.pp_size, self.tp_size))

    @property
    def is_first_pp_rank(self) -> bool:
        return self.pp_rank == 0

    @property
    def is_last_pp_rank(self) -> bool:
        return self.pp_rank == self.pp_size - 1

    @property
    def prev_pp_rank(self) -> int:
        """Rank that the hidden state comes from; the first stage gets the last one (a ring)."""
        return (self.rank - self.tp_size) % (self.tp_size * self.pp_size)

    @property
    def next_pp_rank(self) -> int:
        """Rank that the hidden state goes to; the last stage gets the first one (a ring)."""
        return (self.rank + self.tp_size) % (self.tp_size * self.pp_size)

    def pp_layers(self, num_layers: int) -> list[int]:
        """Return the numbers of the layers that this rank holds.

        Raises
        ------
        SpecError
            When the layers do not divide by `pp_size`.
        """
        if num_layers % self.pp_size:
            raise SpecError(
                f"{num_layers} layers cannot be divided into {self.pp_size} equal pipeline stages.",
                where="Mapping.pp_size",
                remedy="Choose a pp_size that divides the number of layers.",
            )
        per_stage = num_layers // self.pp_size
        return list(range(self.pp_rank * per_stage, (self.pp_rank + 1) * per_stage))

    def with_rank(self, rank: int) -> Mapping:
        """Return the same layout as another rank sees it."""
        return self.replace(rank=rank)
