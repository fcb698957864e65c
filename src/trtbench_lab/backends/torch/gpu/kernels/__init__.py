"""Triton kernels of the CUDA engine; imported only where a GPU (or Triton's interpreter) runs them."""
