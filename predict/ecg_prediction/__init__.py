"""A model folder asked about recordings: probabilities, decisions, a page."""
