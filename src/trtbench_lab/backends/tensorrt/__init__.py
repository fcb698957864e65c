"""The tensorrt backend: TensorRT 11 parses the portable ONNX network. TensorRT is imported when it is used."""
