"""What at least two stages of the ECG-FM Lead-I pipeline need."""
