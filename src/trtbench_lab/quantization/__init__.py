"""Quantization of weights: definitions, packing, and whole checkpoints."""
