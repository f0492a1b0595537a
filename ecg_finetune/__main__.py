"""The stages of the pipeline as one command.

    ecg-finetune                  lists the stages
    ecg-finetune STAGE ...        runs the script of a stage with the options that follow
    ecg-finetune STAGE --help     its options
    ecg-finetune --version

`python -m ecg_finetune STAGE ...` is the same.
"""

import difflib
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path

from ecg_finetune import __version__
from ecg_finetune.stages import STAGES, purpose, script_of

USAGE = "usage: ecg-finetune STAGE [options of the stage]"


def overview() -> str:
    """Return what `ecg-finetune` prints: the stages, a line each."""
    width = max(map(len, STAGES))
    stages = [f"  {stage:{width}}  {purpose(stage)}" for stage in STAGES]
    return "\n".join(
        [USAGE, "", *stages, "", "ecg-finetune STAGE --help shows the options, ecg-finetune --version the version."]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a stage's script ends it with its own exit code."""
    stage, *options = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if stage in ("-h", "--help"):
        return show(overview())
    if stage == "--version":
        return show(f"ecg-finetune {__version__}")
    if stage not in STAGES:
        near = difflib.get_close_matches(stage, STAGES, n=1)
        remedy = f'did you mean "{near[0]}"?' if near else f"the stages are {', '.join(STAGES)}"
        print(f'error: there is no stage "{stage}"; {remedy}', file=sys.stderr)
        return 2
    run_script(script_of(stage), f"ecg-finetune {stage}", options)
    return 0


def show(text: str) -> int:
    """Print; a reader that has gone, as in `| head`, wants no more."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the end of Python tries once more
    return 0


def run_script(script: Path, name: str, options: Sequence[str]) -> None:
    """Run a script as `python SCRIPT OPTIONS` does, but by another name in its usage and messages.

    It becomes `__main__`, as worker processes import that anew. `runpy.run_path` would show the file's name.
    """
    main_module = types.ModuleType("__main__")
    main_module.__file__ = str(script)
    sys.modules["__main__"] = main_module
    sys.argv = [name, *options]
    exec(compile(script.read_bytes(), script, "exec", dont_inherit=True), main_module.__dict__)


if __name__ == "__main__":
    sys.exit(main())
