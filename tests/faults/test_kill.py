"""SIGKILL at random moments: nothing half-written, and a rerun ends with the files of an undisturbed run."""

import pytest
from pipeline import STAGES, contents, half_written, kill_at, random_moments, run


@pytest.mark.parametrize("name", STAGES)
def test_killed_stage_goes_on_to_identical_files(name, undisturbed, tmp_path, request):
    stage, reference = STAGES[name], undisturbed.reference[name]
    kills = request.config.getoption("--kills")
    hit = working = 0
    for index, moment in enumerate(random_moments(kills, undisturbed.seconds[name], seed=20)):
        folder = tmp_path / str(index)
        base = undisturbed.base_before(name, folder)
        command = stage.command(base, undisturbed.raw)
        hit += kill_at(command, moment)
        left = contents(base, stage)
        working += 0 < len(left.keys() & reference.keys()) < len(reference)
        assert not half_written(left, reference), f"killed after {moment:.2f} s"
        rerun = run(command)
        assert rerun.returncode == 0, f"killed after {moment:.2f} s: {rerun.stdout}\n{rerun.stderr}"
        assert contents(base, stage) == reference, f"killed after {moment:.2f} s"
    print(f"\n{name}: {hit} of {kills} kills hit a running process, {working} of them between two files; 0 files lost")
