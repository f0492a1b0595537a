"""Where numbers come from: the files a run reads, and which version of this project read them."""

from pathlib import Path

from ecg_finetune.files import UserError


class Inputs:
    """The input files of one run: a run whose inputs change under it does not report success."""

    def __init__(self) -> None:
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


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
