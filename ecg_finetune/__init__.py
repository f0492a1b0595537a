"""What at least two stages of the ECG-FM Lead-I pipeline need."""

__version__ = "0.2.0"
