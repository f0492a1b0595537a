"""Stands in for fairseq-hydra-train: parses its overrides as hydra 1.0 does, and leaves the files that training leaves.

Which fate it meets is the name of a file beside it: `fail`, `fail_late` (after its first checkpoint) or `hang`.
"""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

# A value in hydra's grammar: quoted, or of these characters only; lists and null are enough of the rest.
VALUE = re.compile(r"""'(?:\\'|[^'])*'|"[^"]*"|\[[\w.,+-]*\]|[\w/\\+.$%*@:-]+""", re.ASCII)
IGNORE_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
)


def parse(override: str) -> tuple[str, str]:
    """Return key and value of an override; end as hydra does at one that it cannot read."""
    key, _, value = override.partition("=")
    if not VALUE.fullmatch(value):
        print(f"LexerNoViableAltException: {override}")
        sys.exit(1)
    if value[0] in "'\"":
        value = value[1:-1].replace("\\'", "'")
    return key.lstrip("+"), value


def main() -> None:
    """Train, so to speak."""
    here = Path(sys.argv[0]).parent
    overrides = dict(map(parse, sys.argv[1 : sys.argv.index("--config-dir")]))
    folder = Path(overrides["checkpoint.save_dir"])
    (folder / "arguments.txt").write_text("\n".join([*sys.argv[1:], os.environ["HYDRA_FULL_ERROR"]]))
    if (here / "fail").exists():
        sys.exit(3)
    if (here / "hang").exists():
        with (here / "alive").open("w") as alive:  # locked as long as this process or its child lives
            fcntl.flock(alive, fcntl.LOCK_EX)
            child = subprocess.Popen(
                [sys.executable, "-c", IGNORE_SIGTERM], stdout=subprocess.PIPE, pass_fds=[alive.fileno()]
            )
            child.stdout.readline()
            (here / "started").touch()
            child.wait()
    names = ["checkpoint_best.pt"]
    if int(overrides["checkpoint.keep_best_checkpoints"]) > 0:
        names.append("checkpoint.best_loss_0.61.pt")
    for name in names:
        (folder / name).write_text("weights")
    if (here / "fail_late").exists():
        sys.exit(4)


main()
