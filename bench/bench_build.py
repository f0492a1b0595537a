"""Build against a plain loop over scipy: 2,000 records, and ten times as many."""

import functools
from pathlib import Path

from bench.stages import (
    BUILD,
    PREPROCESS,
    RECORDS,
    compare,
    compare_many,
    make_base,
    make_records,
    print_disk,
    repeat_files,
    timed,
    whole_and_loop,
    working_folder,
)


def main() -> None:
    """Print the comparison and the disk space."""
    with working_folder() as folder:
        raw = make_records(folder / "raw", RECORDS)
        record_list = make_base(folder / "base", raw, RECORDS)
        many = make_base(folder / "big", raw, 10 * RECORDS)
        for base in (folder / "base", folder / "big"):
            timed(PREPROCESS, "--base-dir", base, "--raw-root", raw)
        timed("-m", "bench.plain_loops", "preprocess", record_list, raw, folder / "plain")
        repeat_files(folder / "plain", 10)

        def plain(run: int, records: Path = record_list) -> tuple[float, float]:
            out = folder / f"plain_5s_{run}"
            whole, loop = timed("-m", "bench.plain_loops", "build", records, folder / "plain", out)
            return whole, float(loop)

        def ours(run: int, base: Path = folder / "base") -> tuple[float, float]:
            out = base / f"run_{run}"
            return whole_and_loop(BUILD, "--base-dir", base, "--finetune-out", out, "--test-out", f"{out}_test")

        compare(plain, ours)
        compare_many(functools.partial(plain, records=many), functools.partial(ours, base=folder / "big"))
        print_disk(folder / "plain_5s_0", folder / "base/run_0/segmented_5s")


if __name__ == "__main__":
    main()
