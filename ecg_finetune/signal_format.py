"""The form of ECG-FM's input, which preprocess writes, build cuts, and fine-tuning and eval read."""

SAMPLE_RATE = 500  # Hz
CHANNELS = 12  # all hold the one lead
RECORD_SECONDS = 10
RECORD_SAMPLES = RECORD_SECONDS * SAMPLE_RATE
SEGMENT_SAMPLES = RECORD_SAMPLES // 2
