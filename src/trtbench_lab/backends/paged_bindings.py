"""What an executor of the paged form checks before it runs: sizes that belong together, indices within the pool."""

from __future__ import annotations

import torch

from ..errors import RequestError
from ..network.signature import BLOCKS, ROWS, STARTS
from .bindings import Bindings


class PagedBindings(Bindings):
    """The tensors bound to an engine of the paged form; parameters are those of `Bindings`."""

    def _checked_sizes(self) -> dict[str, int]:
        sizes = super()._checked_sizes()
        if sizes[STARTS] != sizes[ROWS] + 1:
            raise RequestError(
                f"There are {sizes[ROWS]} rows and {sizes[STARTS]} query_starts.",
                where="query_starts",
                remedy="Give the first token of each row, and the end: one entry more than rows.",
            )
        return sizes

    def guard(self) -> None:
        """Refuse tokens, positions, lengths and blocks that lie outside of what the engine and its pool have.

        Raises
        ------
        RequestError
            Naming the first value that is out of range.
        """
        sizes, tensors = self.sizes(), self.tensors
        if "input_ids" in tensors:
            self._within("input_ids", 0, self._vocab_size, "Encode the text with the model's own tokenizer.")
        rows, num_tokens = tensors["token_rows"], tensors["token_rows"].shape[0]
        self._within("token_rows", -1, sizes[ROWS], "Number the rows from 0; -1 is padding.")
        if "logit_indices" in tensors:
            self._within("logit_indices", 0, num_tokens, "Give packed indices of this run's tokens.")
        live = rows >= 0
        starts, lengths, tables = tensors["query_starts"].long(), tensors["kv_lengths"], tensors["block_tables"]
        if int(starts[0]) != 0 or bool((starts.diff() < 0).any()) or int(starts[-1]) > num_tokens:
            raise RequestError(
                "The starts do not ascend from 0 to the number of tokens.",
                where="query_starts",
                remedy="Give the prefix sum of the rows' new tokens.",
            )
        expected = torch.repeat_interleave(torch.arange(sizes[ROWS], device=rows.device), starts.diff())
        if not torch.equal(rows[: int(starts[-1])].long(), expected) or bool(live[int(starts[-1]) :].any()):
            raise RequestError(
                "Rows of tokens and starts of rows disagree.",
                where="token_rows",
                remedy="Pack each row's tokens together, in the order of the rows, padding (-1) last.",
            )
        block_size = next(spec.shape[3] for name, spec in self.specs.items() if name.startswith("kv_cache_"))
        capacity = min(tables.shape[1] * int(block_size), self._max_positions)
        longest = int(lengths.max())
        if longest > capacity or bool((lengths < starts.diff()).any()):
            raise RequestError(
                f"A row has {longest} tokens after this run; its blocks and the engine's positions hold {capacity}."
                if longest > capacity
                else "A row has more new tokens than tokens.",
                where="kv_lengths",
                remedy="Count the tokens of a row with the new ones, and give it blocks for all of them.",
            )
        places = starts[1:][rows[live].long()] - torch.arange(num_tokens, device=rows.device)[live]
        if not torch.equal(tensors["position_ids"][live].long(), lengths[rows[live].long()].long() - places):
            raise RequestError(
                "Positions do not end with the rows' lengths.",
                where="position_ids",
                remedy="A row's last new token has position kv_lengths - 1, those before it count down.",
            )
        used = torch.arange(tables.shape[1], device=tables.device) * int(block_size) < lengths[:, None]
        blocks = tables[used]
        if blocks.numel() and not 0 <= int(blocks.min()) <= int(blocks.max()) < sizes[BLOCKS]:
            raise RequestError(
                f"A row uses block {int(blocks.max())} of a pool of {sizes[BLOCKS]}.",
                where="block_tables",
                remedy="Give blocks of the pool, one for every tokens_per_block tokens of a row.",
            )

    def _within(self, name: str, low: int, end: int, remedy: str) -> None:
        least, most = (int(value) for value in torch.aminmax(self.tensors[name]))
        if least < low or most >= end:
            raise RequestError(
                f"{name} holds {least if least < low else most}, outside of {low} to {end - 1}.",
                where=name,
                remedy=remedy,
            )
