"""From a checkpoint and its evaluation to a model folder to give away."""
