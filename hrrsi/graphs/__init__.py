"""Inference graphs: the networks as ONNX, built from their tensors without torch."""
