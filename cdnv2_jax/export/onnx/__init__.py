"""Networks as ONNX models, written node by node: for ONNX Runtime and whatever else reads them."""

from cdnv2_jax.export.onnx.classifier import classifier_to_onnx
from cdnv2_jax.export.onnx.retinanet import retinanet_to_onnx

__all__ = ["classifier_to_onnx", "retinanet_to_onnx"]
