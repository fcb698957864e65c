"""Triton kernels between GPUs."""
