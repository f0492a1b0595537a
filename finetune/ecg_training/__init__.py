"""Fine-tuning: the command for fairseq-signals, and an engine of our own that needs only PyTorch."""
