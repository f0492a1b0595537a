"""SIGKILL at random moments: nothing half-written, and a rerun ends with the files of an undisturbed run."""

import itertools
import shutil

import pytest
from pipeline import STAGES, contents, half_written, kill_at, random_moments, run


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name == "eval" else name for name in STAGES]
)
def test_killed_stage_goes_on_to_identical_files(name, undisturbed, tmp_path, request):
    kills = request.config.getoption("--kills")
    stage, reference = STAGES[name], undisturbed.reference(name)
    working = 0
    attempts = itertools.count()
    for index, moment in enumerate(random_moments(kills, undisturbed.seconds(name), seed=20)):
        workers_too = index % 2 == 0
        while True:
            base = undisturbed.base_before(name, tmp_path / str(next(attempts)))
            command = stage.command(base, undisturbed.raw)
            if kill_at(command, moment, workers_too):
                break
            moment *= 0.8  # it ended before
        where = f"killed after {moment:.3f} s{'' if workers_too else ' without its workers'}, {base}"
        left = contents(base, stage)
        begun = any(not path.is_dir() for path in (base / stage.folder).rglob("*"))
        working += begun and left != reference
        assert not half_written(stage, left, reference), where
        rerun = run(command)
        assert rerun.returncode == 0, f"{where}: {rerun.stdout}\n{rerun.stderr}"
        assert contents(base, stage) == reference, where
        shutil.rmtree(base)
    files = f"{len(reference):,} file{'s' if len(reference) > 1 else ''}"
    print(f"\n{name}: {kills} kills, {working} of them between its first and its last write; 0 of {files} lost")
