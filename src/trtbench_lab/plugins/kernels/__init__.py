"""Triton kernels of the plugins, a module each. They import Triton, so the frame loads them when needed."""
