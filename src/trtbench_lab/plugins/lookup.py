"""Plugin of the embedding lookup in a table divided along the vocabulary: ids of other ranks' rows give zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .frame import Attributes, Call, Launch, Operand, Plugin, cdiv
from .quantizing import FLOATS

BLOCK = 1024
"""Elements of a table row that one program copies."""


def lookup(ids: torch.Tensor, table: torch.Tensor, first_row: int) -> torch.Tensor:
    """Return rows by id, zeros for ids whose row this table lacks.

    Parameters
    ----------
    ids
        (…), int32 or int64.
    table
        (rows, width): the vocabulary from id `first_row` on.
    first_row
        Id of the first row.

    Returns
    -------
    (…, width), the type of `table`
    """
    local = ids - first_row
    mine = (local >= 0) & (local < table.shape[0])
    return F.embedding(torch.where(mine, local, 0), table) * mine[..., None]


def _results(operands: Sequence[Operand], attributes: Attributes) -> tuple[Operand, ...]:
    ids, table = operands
    return (Operand((*ids.shape, table.shape[-1]), table.dtype),)


def _plan(call: Call) -> Launch:
    ids, table = call.inputs
    width = table.fixed(-1)
    constants = {"W": width, "BLOCK": BLOCK, "FIRST": int(call.attributes["first_row"])}
    return Launch("lookup", (ids.numel, cdiv(width, BLOCK)), {"num_rows": table.shape[0]}, constants)


LOOKUP = Plugin(
    name="lookup",
    op_type="Lookup",
    inputs=("ids", "table"),
    outputs=("rows",),
    attributes={"first_row": int},
    types=tuple((ids, dtype, dtype) for dtype in FLOATS for ids in ("int32", "int64")),
    reference=lookup,
    results=_results,
    plan=_plan,
    kernels="lookup",
    onnx_body="""
    first_id = Constant <value_int: int = @first_row> ()
    zero_id = Constant <value_int = 0> ()
    wide_ids = Cast <to = 7> (ids)
    local = Sub (wide_ids, first_id)
    num_rows = Shape <start = 0, end = 1> (table)
    not_before = GreaterOrEqual (local, zero_id)
    not_after = Less (local, num_rows)
    mine = And (not_before, not_after)
    safe = Where (mine, local, zero_id)
    found = Gather <axis = 0> (table, safe)
    last = Constant <value_ints = [-1]> ()
    row_mine = Unsqueeze (mine, last)
    zero_float = Constant <value_float = 0.0> ()
    zero = CastLike (zero_float, table)
    rows = Where (row_mine, found, zero)""",
    switches=("lookup_plugin",),
    replaces="gather and mask of an embedding table divided along the vocabulary",
)
PLUGINS = (LOOKUP,)
