"""Where numbers come from: beside what it writes, every stage leaves a JSON file with its lineage.

A lineage says which stage ran, in which version of this project, with which settings, on which files (by SHA-256), what
it wrote, and the lineage of the stages before it. So the last file tells the whole story, from the report back to the
raw tables; and a stage that reads two files of which one has been replaced since sees it.
"""

import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ecg_finetune import __version__
from ecg_finetune.files import UserError, read_json, sha256, shown
from ecg_finetune.paths import inside

REPOSITORY = Path(__file__).resolve().parent.parent
NOT_RECORDED = "not recorded"
# Where settings.json of a fine-tuning run names the labels of which no train record is positive, or none negative.
NOT_LEARNT = "labels_not_learnt"


class Inputs:
    """The input files of one run: a run whose inputs change under it does not report success.

    Parameters
    ----------
    base_dir : Path
        The root of all stages' files; a lineage names what lies below it from there, so that it can be moved.
    """

    def __init__(self, base_dir: Path = Path()) -> None:
        self._base = Path(base_dir).resolve()
        self._files: dict[Path, tuple[int, int, int]] = {}

    def add(self, *paths: Path) -> None:
        """Note files that are about to be read, as they are now; those that do not exist are passed over."""
        for path in map(Path, paths):
            if path.is_file():
                self._files[path] = _identity(path)

    def refuse_changed(self) -> None:
        """Raise `UserError` if a file is no longer what it was when it was noted."""
        for path, identity in self._files.items():
            if not path.exists() or _identity(path) != identity:
                raise UserError(
                    f"{path}: the file changed during this run, what was written belongs to its earlier content; "
                    "run again"
                )

    def sha256(self) -> dict[str, str]:
        """Return the SHA-256 of every file, by its path."""
        return {self._named(path.resolve()): sha256(path) for path in self._files}

    def _named(self, path: Path) -> str:
        return str(path.relative_to(self._base) if path.is_relative_to(self._base) else path)


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def lineage(
    stage: str,
    settings: Mapping[str, Any],
    inputs: Inputs | None = None,
    outputs: Iterable[Path] = (),
    earlier: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Describe a run.

    Parameters
    ----------
    stage : str
        Its name.
    settings : mapping
        Option name to JSON value: everything that decides the content of what it wrote.
    inputs : Inputs, optional
        The files it read, unless the settings state them.
    outputs : iterable of Path
        The files it wrote that later stages may check.
    earlier : iterable of mapping
        The lineages of the stages whose files it read, see `read_lineage`.

    Returns
    -------
    dict
        `stage`, `version` and `commit` of this project (None where it is not run from its own git repository),
        `settings`, `inputs` and `outputs` (path, or name, to SHA-256), `earlier` (a list of lineages).
    """
    return {
        "stage": stage,
        "version": __version__,
        "commit": commit(),
        "settings": dict(settings),
        "inputs": {} if inputs is None else inputs.sha256(),
        "outputs": {path.name: sha256(path) for path in outputs},
        "earlier": list(earlier),
    }


def read_lineage(stage: str, path: Path, files: Iterable[Path]) -> dict[str, Any]:
    """Read the lineage that a stage left beside its files, and check that the files are those it wrote.

    Parameters
    ----------
    stage : str
        The stage that writes `path`.
    path : Path
        The JSON file.
    files : iterable of Path
        The files that are read beside it; those it does not list are not checked.

    Returns
    -------
    dict
        As `lineage`; only `stage` and a `note` where the file does not exist: files from elsewhere have none.

    Raises
    ------
    UserError
        The JSON file is damaged, or one of the files is not what the stage wrote.
    """
    if not path.exists():
        return {"stage": stage, "note": NOT_RECORDED}
    found = read_json(path, dict)
    outputs = found.get("outputs")
    for file in files:
        if isinstance(outputs, dict) and file.name in outputs and sha256(file) != outputs[file.name]:
            raise UserError(
                f"{file}: not the file that the {stage} stage wrote together with {path.name}: they are of two runs, "
                f"or one was changed; run the {stage} stage again (or remove {path.name} if the change is meant)"
            )
    return found


def lineages(lineage: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a lineage and those of the stages before it, the latest first; the same one once."""
    told: list[Mapping[str, Any]] = []
    waiting = [lineage]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, Mapping) and one not in told:
            told.append(one)
            earlier = one.get("earlier")
            waiting += earlier if isinstance(earlier, list) else []
            yield one


def latest(lineage: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    """Return the lineage of the latest run of a stage that is recorded in a lineage; empty where none is."""
    if lineage.get("stage") == stage and isinstance(lineage.get("settings"), Mapping):
        return lineage
    earlier = lineage.get("earlier")
    found = (latest(one, stage) for one in (earlier if isinstance(earlier, list) else ()) if isinstance(one, Mapping))
    return next((one for one in found if one), {})


def stage_settings(lineage: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    """Return the settings of the latest run of a stage in a lineage; empty where it is not recorded."""
    return latest(lineage, stage).get("settings", {})


def refuse_other_lead(path: Path, lineage: Mapping[str, Any], lead: str) -> None:
    """Raise `UserError` if the files in `path` are of another lead than the one that a run is for, by their lineage."""
    for stage in ("preprocess", "build"):
        made = stage_settings(lineage, stage).get("--lead")
        if made is not None and made != lead:
            raise UserError(
                f"{path}: of lead {shown(made)} (by what the {stage} stage has written), but --lead is {lead}; give "
                "--lead, or the folder, that is meant"
            )


def finetuning_of(checkpoint: Path) -> dict[str, Any]:
    """Return the lineage of the fine-tuning run that made a checkpoint, which lies beside it.

    The run states the SHA-256 of its checkpoint. Where that is another one, or none, the file has come from elsewhere
    and the run beside it is not its own: only `stage` and a `note` are returned, as `read_lineage` does.

    Raises
    ------
    UserError
        The JSON file is damaged.
    """
    path = inside(checkpoint.parent, "finetune_settings")
    found = read_json(path, dict) if path.is_file() else {}
    stated = found.get("checkpoint_sha256")
    if stated is None or stated != sha256(checkpoint):
        return {"stage": "finetune", "note": NOT_RECORDED}
    return {**found, "stage": "finetune"}


def commit() -> str | None:
    """Return the commit of this project's own repository, `-dirty` where it has changes; None where it is not in one.

    A repository that the project's folder happens to lie in does not count.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != REPOSITORY:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):  # no git, or installed from elsewhere: the version must do
        return None


def software() -> dict[str, str | None]:
    """Return the versions of this project, of Python and of the packages that decide numbers."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"ecg-finetune": __version__, "commit": commit(), "python": platform.python_version()}
    for package in ("numpy", "pandas", "scipy", "scikit-learn", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
