"""Preprocess against a plain loop over wfdb and scipy: 2,000 format-16 records, and ours on ten times as many."""

from pathlib import Path

from bench.stages import PREPROCESS, make_base, make_records, print_comparison, timed, working_folder
from ecg_finetune.paths import locate

RECORDS = 2000
WORKERS = 2


def ours(base: Path, raw: Path, repeats: int) -> tuple[float, float]:
    """Return the best seconds of a whole run, and the same less a run that finds everything done.

    Each run writes into a new folder: ext4 is slow at making files for a minute after as many have been removed.
    """
    runs = []
    for repeat in range(repeats):
        out = locate(base, "lead").with_name(f"run_{repeat}")
        command = (PREPROCESS, "--base-dir", base, "--raw-root", raw, "--workers", WORKERS, "--out", out)
        runs.append((timed(*command)[0], timed(*command)[0]))
    whole = min(fresh for fresh, _ in runs)
    return whole, whole - min(again for _, again in runs)


def main() -> None:
    """Print the comparison and the disk space."""
    with working_folder() as folder:
        raw = make_records(folder / "raw", RECORDS)
        base = folder / "base"
        record_list = make_base(base, raw, RECORDS)
        whole, loop = timed("-m", "bench.plain_loops", "preprocess", record_list, raw, folder / "plain")
        small = ours(base, raw, 3)
        plain_bytes = sum(file.stat().st_size for file in (folder / "plain").iterdir())
        bytes_ = sum(file.stat().st_size for file in locate(base, "lead").with_name("run_0").iterdir())
        make_base(folder / "big", raw, 10 * RECORDS)
        big = ours(folder / "big", raw, 1)
    print_comparison(RECORDS, (whole, float(loop)), small, small[0] / RECORDS, big[0] / RECORDS / 10)
    print(f"disk: {bytes_ / plain_bytes:.1%} of the plain loop's files")


if __name__ == "__main__":
    main()
