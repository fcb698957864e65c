"""`ShardPlan`: which rank gets which tensor in how many bytes, for any division, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtbench_lab import workbench
from trtbench_lab.checkpoint.plan import ShardPlan as Plan
from trtbench_lab.checkpoint.plan import shard_plan
from trtbench_lab.reports.shards import shard_balance, shard_treemap
from trtbench_lab.specs import Mapping
from trtbench_lab.specs.requests import ConvertSpec

from .board import Board

if TYPE_CHECKING:
    from trtbench_lab.specs import ModelConfig

_SIZES = (1, 2, 4, 8, 16)


class ShardPlan(Board):
    """A treemap of tensors by rank and the bytes of each rank, for any tensor and pipeline parallelism.

    Parameters
    ----------
    source
        A `ModelConfig`, a plan of `checkpoint.shard_plan`, or a model (folder, ``"demo:gpt2"``, hub id already here).
    tp_size, pp_size
        The division that is shown first; None for that of the source.
    dtype
        Element type, where `source` is a model.
    theme
        ``"auto"``, ``"light"`` or ``"dark"``.
    """

    def __init__(
        self,
        source: ModelConfig | Plan | str | Path,
        *,
        tp_size: int | None = None,
        pp_size: int | None = None,
        dtype: str = "float16",
        theme: str = "auto",
    ) -> None:
        self._source, self._dtype = source, dtype
        mapping = None if isinstance(source, str | Path) else source if isinstance(source, Plan) else source.mapping
        tp, pp = tp_size or (mapping.tp_size if mapping else 1), pp_size or (mapping.pp_size if mapping else 1)
        super().__init__(
            heading="Shard plan", theme=theme, values={"tp_size": str(tp), "pp_size": str(pp), "contains": ""}
        )
        sizes = [[str(size), str(size)] for size in _SIZES]
        division = [
            {"name": "tp_size", "label": "Tensor parallel", "kind": "select", "options": sizes},
            {"name": "pp_size", "label": "Pipeline parallel", "kind": "select", "options": sizes},
        ]
        find = {"name": "contains", "label": "Tensors with", "kind": "text", "placeholder": "for example .mlp."}
        # A plan that is given is what it is; only a configuration can be divided anew.
        self.controls = [*([] if isinstance(source, Plan) else division), find]
        self.refresh()

    @property
    def plan(self) -> Plan:
        """The plan that is shown.

        Raises
        ------
        CheckpointError
            When the model cannot be divided so.
        """
        source, tp_size, pp_size = self._source, int(self.values["tp_size"]), int(self.values["pp_size"])
        if isinstance(source, Plan):
            return source
        if isinstance(source, str | Path):
            mapping = Mapping(tp_size=tp_size, pp_size=pp_size)
            spec = ConvertSpec(source=str(source), dtype=self._dtype, mapping=mapping, dry_run=True)
            planned = workbench.convert(spec)
            assert isinstance(planned, Plan)  # noqa: S101 - what dry_run gives
            return planned
        return shard_plan(source.replace(mapping=Mapping(tp_size=tp_size, pp_size=pp_size)))

    def redraw(self) -> None:
        plan, contains = self.plan, self.values["contains"].strip()
        self.show(
            [
                ("treemap", "", shard_treemap(plan, contains=contains)),
                ("balance", "", shard_balance(plan, contains=contains)),
            ]
        )
        self.summary = f"{plan.architecture} over {plan.world_size} rank(s), {len(plan):,} tensors"
