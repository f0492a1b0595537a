"""The split stage: which record belongs to train, valid and test."""
