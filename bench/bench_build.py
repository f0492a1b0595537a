"""Build against a plain loop over scipy: 2,000 records, and ours on ten times as many."""

from pathlib import Path

from bench.bench_preprocess import RECORDS, WORKERS
from bench.stages import BUILD, PREPROCESS, make_base, make_records, print_comparison, timed, working_folder


def ours(base: Path, raw: Path, repeats: int) -> tuple[float, float]:
    """Return the best seconds of a whole run, and the same less a run that finds everything done."""
    timed(PREPROCESS, "--base-dir", base, "--raw-root", raw)
    runs = []
    for repeat in range(repeats):
        out = base / f"run_{repeat}"
        command = (BUILD, "--base-dir", base, "--workers", WORKERS, "--finetune-out", out, "--test-out", f"{out}_test")
        runs.append((timed(*command)[0], timed(*command)[0]))
    whole = min(fresh for fresh, _ in runs)
    return whole, whole - min(again for _, again in runs)


def main() -> None:
    """Print the comparison and the disk space."""
    with working_folder() as folder:
        raw = make_records(folder / "raw", RECORDS)
        record_list = make_base(folder / "base", raw, RECORDS)
        timed("-m", "bench.plain_loops", "preprocess", record_list, raw, folder / "plain")
        whole, loop = timed("-m", "bench.plain_loops", "build", record_list, folder / "plain", folder / "plain_5s")
        small = ours(folder / "base", raw, 3)
        plain_bytes = sum(file.stat().st_size for file in (folder / "plain_5s").iterdir())
        bytes_ = sum(file.stat().st_size for file in (folder / "base/run_0/segmented_5s").iterdir())
        make_base(folder / "big", raw, 10 * RECORDS)
        big = ours(folder / "big", raw, 1)
    print_comparison(RECORDS, (whole, float(loop)), small, small[0] / RECORDS, big[0] / RECORDS / 10)
    print(f"disk: {bytes_ / plain_bytes:.1%} of the plain loop's files")


if __name__ == "__main__":
    main()
