"""App: the Gradio demo that serves a bundle."""
