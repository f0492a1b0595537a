"""Preprocess against a plain loop over wfdb and scipy: 2,000 format-16 records, and ten times as many."""

import functools
from pathlib import Path

from bench.stages import (
    PREPROCESS,
    RECORDS,
    compare,
    compare_many,
    make_base,
    make_records,
    print_disk,
    timed,
    whole_and_loop,
    working_folder,
)


def main() -> None:
    """Print the comparison and the disk space."""
    with working_folder() as folder:
        raw = make_records(folder / "raw", RECORDS)
        record_list = make_base(folder / "base", raw, RECORDS)

        def plain(run: int, records: Path = record_list) -> tuple[float, float]:
            out = folder / f"plain_{run}"
            whole, loop = timed("-m", "bench.plain_loops", "preprocess", records, raw, out)
            return whole, float(loop)

        def ours(run: int, base: Path = folder / "base") -> tuple[float, float]:
            out = base / f"run_{run}"
            return whole_and_loop(PREPROCESS, "--base-dir", base, "--raw-root", raw, "--out", out)

        compare(plain, ours)
        many = make_base(folder / "big", raw, 10 * RECORDS)
        compare_many(functools.partial(plain, records=many), functools.partial(ours, base=folder / "big"))
        print_disk(folder / "plain_0", folder / "base/run_0")


if __name__ == "__main__":
    main()
