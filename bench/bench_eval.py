"""An evaluation at the size of MIMIC-IV-ECG: the bootstrap against scikit-learn, and the whole script.

78,370 simulated records of about 12,000 patients, 17 labels with ECG-FM's prevalences, every metric of every label and
of all pooled, with intervals. The plain loop repeats the rows of the patients drawn and calls `roc_auc_score` and
`average_precision_score`; it is run for a few replicates and extrapolated. Both see the same draws.

The script computes everything from predictions, with subgroups by sex and age, two prevalences and figures as files, in
a base folder as the stages leave it for 800,035 records (but for the signals). Searching leads for beats (--baselines)
is measured on 1,000 records.
"""

import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
from ecg_evaluation.baselines import beats_table
from ecg_evaluation.bootstrap import draw, replicates
from ecg_evaluation.intervals import estimate, macro
from ecg_evaluation.metrics import METRICS, Scored
from sklearn.metrics import average_precision_score, roc_auc_score

from bench.stages import timed, working_folder
from ecg_finetune.files import write_array
from ecg_finetune.label_set import ECG_FM, LABELS, write_label_definition
from ecg_finetune.matfile import write_mat
from ecg_finetune.paths import locate
from ecg_finetune.studies import save_file_name

RECORDS, PATIENTS, REPLICATES, PLAIN_REPLICATES = 78_370, 16_000, 1000, 2
VALID, TRAIN, ALL = 79_129, 630_178, 800_035
# Positives among the 78,370 records of ECG-FM's test split.
POSITIVES = np.array(
    [2003, 63386, 5249, 16476, 70, 3170, 8064, 1419, 10313, 9447, 6382, 5953, 2319, 6322, 3012, 17654, 3293]
)


def simulate(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth (records, 17), probabilities of AUROC about 0.96, and the patient of each record."""
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.7, size=PATIENTS)  # a few patients have very many records, most have one to five
    patient = np.unique(rng.choice(PATIENTS, size=RECORDS, p=share / share.sum()), return_inverse=True)[1]
    truth = rng.random((RECORDS, 17)) < POSITIVES / RECORDS
    logits = rng.normal(size=truth.shape) + 2.5 * truth - 2
    return truth, 1 / (1 + np.exp(-logits)), patient


def plain_replicate(truth: np.ndarray, scores: np.ndarray, records_of: list[np.ndarray], weights: np.ndarray):
    """Return AUROC and AUPRC (18, 2) of a resample as scikit-learn gives them."""
    rows = np.concatenate([np.tile(records_of[i], times) for i, times in enumerate(weights) if times])
    truth, scores = truth[rows], scores[rows]
    values = [
        (roc_auc_score(truth[:, i], scores[:, i]), average_precision_score(truth[:, i], scores[:, i]))
        for i in range(truth.shape[1])
    ]
    micro = roc_auc_score(truth.ravel(), scores.ravel()), average_precision_score(truth.ravel(), scores.ravel())
    return np.array([*values, micro])


def make_base(base: Path, truth: np.ndarray, scores: np.ndarray, patient: np.ndarray) -> list:
    """Write a base folder of 800,035 studies whose test records are these; return the options of the script."""
    rng = np.random.default_rng(1)
    split = np.repeat(["test", "valid", "train"], [RECORDS, VALID, TRAIN])
    studies = 40_000_000 + rng.permutation(ALL)
    others = rng.integers(patient.max() + 1, 150_000, ALL - RECORDS)
    subjects = 10_000_000 + np.concatenate((patient, np.sort(others)))
    soft = np.where(rng.random((ALL, 17)) < POSITIVES / RECORDS, np.float32(1), np.float32(0))
    soft[:RECORDS] = truth
    unsure = rng.random(soft.shape) < 0.03 * soft
    differing = pd.DataFrame(np.argwhere(unsure), columns=["idx", "label"])
    differing = differing.assign(label=np.array(LABELS)[differing["label"]], **{"ecg-fm": 1, "asserted": 0.65})
    cohort = slice(len(split))

    def write(name: str, table: pd.DataFrame) -> None:
        path = locate(base, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)

    paths = [f"files/p{subject // 10_000}/p{subject}/s{study}/{study}" for subject, study in zip(subjects, studies)]
    listed = {"subject_id": subjects, "study_id": studies, "path": paths, "ecg_time": "2180-07-23 08:44:00"}
    write("record_list", pd.DataFrame(listed))
    write("meta_split", pd.DataFrame({"save_file": [save_file_name(one) for one in studies[cohort]], "split": split}))
    columns = dict(zip(LABELS, soft.T.astype(np.int8)))
    write("labels", pd.DataFrame({"idx": np.arange(ALL), **columns}))
    write("study_id_mapping", pd.DataFrame({"idx": np.arange(ALL), "study_id": studies, "split": ""}))
    write("policy_differences", differing)
    write_array(locate(base, "y_soft"), soft)
    locate(base, "labels_lineage").write_text('{"stage": "labels", "settings": {"--policy": "ecg-fm"}}')
    write("test_labels", pd.DataFrame({"idx": studies[:RECORDS], **{n: c[:RECORDS] for n, c in columns.items()}}))
    write_label_definition(locate(base, "test_label_def"), ECG_FM, truth)
    built = np.repeat(soft[cohort], 2, axis=0)
    write_array(locate(base, "manifest_y"), built)
    write_array(locate(base, "original_idx_order"), np.repeat(studies[cohort], 2))
    write_label_definition(locate(base, "manifest_label_def"), ECG_FM, built)
    people = np.unique(subjects)
    table = {"subject_id": people, "sex": rng.choice(["F", "M"], len(people)), "age": rng.integers(18, 92, len(people))}
    pd.DataFrame(table).to_csv(base / "subjects.csv", index=False)
    valid_scores = 1 / (1 + np.exp(-(rng.normal(size=(VALID, 17)) + 2.5 * soft[RECORDS : RECORDS + VALID] - 2)))
    predicted = {"test": (studies[:RECORDS], scores), "valid": (studies[RECORDS : RECORDS + VALID], valid_scores)}
    for name, (own, values) in predicted.items():
        table = pd.DataFrame(values, columns=LABELS)
        table.insert(0, "study_id", own)
        table.to_csv(base / f"{name}.csv", index=False)
    files = ["--predictions", base / "test.csv", "--valid-predictions", base / "valid.csv"]
    options = ["--subgroups", base / "subjects.csv", "--prevalence", "0.01,0.05", "--figures", base / "figures"]
    return ["eval/scripts/eval_ecgfm.py", "--base-dir", base, *files, *options]


def search_for_beats(folder: Path, records: int = 1000) -> float:
    """Return how many records a second are searched for beats on two processes."""
    rng = np.random.default_rng(0)
    studies = np.arange(records)
    mats = locate(folder, "test_mats")
    mats.mkdir(parents=True)
    names = [save_file_name(study) for study in studies]
    pd.DataFrame({"study_id": studies, "save_file": names}).to_csv(locate(folder, "test_file_list"), index=False)
    for study, name in zip(studies.tolist(), names):
        beats = np.zeros(5000, np.float32)
        beats[rng.integers(0, 400) :: rng.integers(250, 600)] = 1
        lead = np.convolve(beats, np.hanning(40), "same").astype(np.float32) + 0.02 * rng.normal(size=5000)
        write_mat(
            mats / name, {"feats": np.tile(lead.astype(np.float32), (12, 1)), "curr_sample_rate": 500, "idx": study}
        )
    started = time.perf_counter()
    beats_table(locate(folder, "test"), studies, workers=2)
    return records / (time.perf_counter() - started)


def whole_script(truth: np.ndarray, scores: np.ndarray, patient: np.ndarray) -> None:
    """Run the script on a base folder of MIMIC-IV-ECG's size; print its time, memory and what it wrote."""
    with working_folder() as folder:
        command = make_base(folder / "base", truth, scores, patient)
        seconds, _ = timed(*command)
        gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        (report,) = (folder / "base/eval/data").glob("report_*.html")
        megabytes = report.stat().st_size / 1e6
        tables = sum(1 for _ in (folder / "base/eval/data").glob("*.csv"))
        rate = search_for_beats(folder / "beats")
    print(f"the script on {RECORDS:,} records, all analyses, {REPLICATES:,} resamples of the patients")
    print(f"{seconds:.0f} s, {gigabytes:.1f} GB of memory, {tables} tables, report of {megabytes:.1f} MB")
    print(f"beats: {rate:,.0f} records/s on 2 processes, {RECORDS / rate:.0f} s for all")


def main() -> None:
    """Print the comparison, then the run of the whole script."""
    truth, scores, patient = simulate()
    started = time.perf_counter()
    scored = Scored(truth, scores, np.full(17, 0.5), patient)
    drawn = replicates(scored, REPLICATES)
    macro(estimate(scored, drawn), np.ones(17, bool), logits=True)
    ours = time.perf_counter() - started

    records_of = np.split(np.argsort(patient, kind="stable"), np.cumsum(np.bincount(patient))[:-1])
    started = time.perf_counter()
    weights = [draw(scored.units, number) for number in range(PLAIN_REPLICATES)]
    plain = [plain_replicate(truth, scores, records_of, chosen) for chosen in weights]
    extrapolated = (time.perf_counter() - started) / PLAIN_REPLICATES * REPLICATES
    difference = np.abs(np.array(plain) - drawn[:PLAIN_REPLICATES, :, :2]).max()

    print(f"{RECORDS:,} records, {scored.units:,} patients, {drawn.shape[1]} rows, {REPLICATES:,} replicates")
    print(f"{'':62}{'seconds':>9}{'faster':>9}")
    told = f"scikit-learn, AUROC and AUPRC ({PLAIN_REPLICATES} replicates, extrapolated)"
    print(f"{told:<62}{extrapolated:9.0f}{1:9.1f}")
    told = f"ours, {len(METRICS)} metrics with intervals ({REPLICATES:,} replicates)"
    print(f"{told:<62}{ours:9.1f}{extrapolated / ours:9.1f}")
    print(f"largest difference between the two: {difference:.1e}")
    whole_script(truth, scores, patient)


if __name__ == "__main__":
    main()
