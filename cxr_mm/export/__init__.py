"""Export: a bundle for other runtimes (ONNX), for MLflow and for the Hugging Face Hub."""
