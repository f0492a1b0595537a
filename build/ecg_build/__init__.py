"""The build stage: the test set, and the 5 s segments with the manifests that fine-tuning reads."""
