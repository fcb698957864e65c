"""What TensorRT really does on this machine, feature by feature: tiny engines against a float32 reference, in child
processes, with a verdict that later builds obey."""
