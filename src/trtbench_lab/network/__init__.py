"""The decoder, once: PyTorch modules over a small op vocabulary, run as they are or exported to ONNX."""
