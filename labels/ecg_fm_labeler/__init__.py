"""ECG-FM's pattern labeler: from the machine statements of an ECG report to 17 labels.

>>> from ecg_fm_labeler import Labeler
>>> hard, soft = Labeler.from_config().label([["Sinus rhythm with PVC(s)", "Possible inferior infarct"]])
>>> hard.shape, int(hard.sum())
((1, 17), 3)
"""

from ecg_fm_labeler.labeler import Labeler, Labels

__all__ = ["Labeler", "Labels"]
