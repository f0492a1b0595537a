"""Synthetic 12-lead ECGs whose signals follow their machine reports, stored as MIMIC-IV-ECG stores its records.

A `Patient` has lasting traits (`patients`), a `Condition` is what one of the patient's ECGs shows (`conditions`).
The report (`reports`) and the signal (`signals`) are both made from the condition; `records` writes the files.
"""
