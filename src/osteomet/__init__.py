"""osteomet finds bone metastases in CT and predicts whether their primary is lung cancer."""

__version__ = "0.1.0"
