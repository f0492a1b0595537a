"""The preprocess stage: one lead of every WFDB record as a standardised 10-second record."""
