"""The CUDA engine: the decoder lowered to fused steps, one graph a batch bucket, tokens queued on the device."""
