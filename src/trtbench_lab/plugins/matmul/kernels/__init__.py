"""Triton kernels of the matrix products. They import Triton, so nothing imports them before a launch."""
