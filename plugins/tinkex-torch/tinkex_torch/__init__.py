"""An engine of the local service that trains LoRA adapters with PyTorch."""

__version__ = "0.1.0"
