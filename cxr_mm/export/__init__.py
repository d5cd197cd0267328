"""Export: a bundle for other runtimes (ONNX) and for the Hugging Face Hub."""
