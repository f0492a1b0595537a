"""The form of ECG-FM's input, which preprocess writes, build cuts, and fine-tuning and eval read."""

SAMPLE_RATE = 500  # Hz
CHANNELS = 12  # all hold the one lead
RECORD_SECONDS = 10
RECORD_SAMPLES = RECORD_SECONDS * SAMPLE_RATE
SEGMENT_SAMPLES = RECORD_SAMPLES // 2

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def lead_number(lead: str) -> int:
    """Return the number of a lead as folder names use it: I is 1, aVF is 6, V6 is 12.

    This is the conventional order of the 12 leads, not the order of channels in a record: MIMIC-IV-ECG stores
    aVF before aVL, so a record's channel is always found by name.

    Raises
    ------
    ValueError
        `lead` is none of `LEADS`.
    """
    return LEADS.index(lead) + 1
