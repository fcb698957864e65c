"""The project's own ops, one file each: the op with its plain reference, and its ONNX function of standard ops."""
