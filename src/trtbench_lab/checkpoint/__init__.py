"""Checkpoints: TensorRT-LLM's folder format, sharding and streaming."""
