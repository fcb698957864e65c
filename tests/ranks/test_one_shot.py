"""Which sums the kernel of one's own takes: words of memory that lie one after the other, of one type and extents."""

from __future__ import annotations

import pytest
import torch

from trtbench_lab.ranks.one_shot import OneShot, largest_words

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("x", "residual", "taken"),
    [
        (torch.zeros(4, 8), None, True),
        (torch.zeros(4, 8).bfloat16(), torch.zeros(4, 8).bfloat16(), True),
        (torch.zeros(3, 3).half(), None, False),  # half a word is left over
        (torch.zeros(0, 8), None, False),
        (torch.zeros(1, largest_words(2) + 1), None, False),
        (torch.zeros(8, 4).t(), None, False),
        (torch.zeros(4, 8), torch.zeros(8, 4).t(), False),
        (torch.zeros(4, 1), torch.zeros(4, 8)[:, :1], False),  # torch views it as one column, of strides
        (torch.zeros(4, 8), torch.zeros(1, 8), False),  # would be read beyond its end
        (torch.zeros(4, 8), torch.zeros(4, 8).bfloat16(), False),
        (torch.zeros(9).bfloat16()[1:], None, False),  # begins within a word
    ],
)
def test_what_the_kernel_would_read_wrongly_is_left_to_the_library(x, residual, taken):
    one_shot = OneShot(0, 2, None, CPU)
    assert one_shot.takes(x, residual) is taken
