"""The baselines: preprocess and build as plain loops over wfdb and scipy, the way scripts for this job usually go.

Run as a process of its own: python -m bench.plain_loops {preprocess,build} ... ; prints the seconds of the loop.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import wfdb
from scipy.interpolate import interp1d
from scipy.io import loadmat, savemat


def preprocess(record_list: Path, raw_root: Path, out: Path) -> int:
    """Per record: rdrecord, resample, standardise, savemat."""
    table = pd.read_csv(record_list)
    for study_id, path in zip(table["study_id"], table["path"], strict=True):
        record = wfdb.rdrecord(str(raw_root / path))
        lead = record.p_signal[:, record.sig_name.index("I")]
        if record.fs != 500:
            size = int(len(lead) * 500 / record.fs)
            lead = interp1d(np.linspace(0, size - 1, len(lead)), lead)(np.arange(size))
        lead = (lead - lead.mean()) / lead.std()
        variables = {
            "feats": np.tile(lead.astype(np.float32), (12, 1)),
            "org_sample_rate": record.fs,
            "curr_sample_rate": 500,
            "org_sample_size": record.sig_len,
            "curr_sample_size": len(lead),
            "idx": study_id,
        }
        savemat(out / f"mimic_iv_ecg_{study_id}.mat", variables)
    return len(table)


def build(record_list: Path, lead_folder: Path, out: Path) -> int:
    """Per record: loadmat, cut, savemat of each segment twice, as its idx is known only when all are cut."""
    table = pd.read_csv(record_list)
    for row, study_id in enumerate(table["study_id"]):
        feats = loadmat(lead_folder / f"mimic_iv_ecg_{study_id}.mat")["feats"]
        for part in range(2):
            variables = {
                "feats": feats[:, 2500 * part : 2500 * (part + 1)],
                "curr_sample_rate": 500,
                "idx": study_id,
                "original_idx": study_id,
            }
            path = out / f"mimic_iv_ecg_{study_id}_{part}.mat"
            savemat(path, variables)
            savemat(path, {**variables, "idx": 2 * row + part})
    return len(table)


def main() -> None:
    """Run one loop."""
    loop = {"preprocess": preprocess, "build": build}[sys.argv[1]]
    paths = [Path(argument) for argument in sys.argv[2:]]
    paths[-1].mkdir(parents=True)
    started = time.perf_counter()
    loop(*paths)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
