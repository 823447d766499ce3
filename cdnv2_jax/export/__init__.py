"""Networks as files that run without this package: StableHLO, ONNX, safetensors."""
