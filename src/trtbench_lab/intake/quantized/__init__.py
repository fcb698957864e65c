"""Models that were quantized elsewhere: their packed tensors as integers, steps and zero points, exactly."""
