"""Where predictions come from: the lineage beside a predictions file, and the chain from it back to the raw tables."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ecg_finetune.data_sets import Source, source_of
from ecg_finetune.files import UserError, read_json, sha256, write_json
from ecg_finetune.lineage import NOT_LEARNT, NOT_RECORDED


def origin_file(predictions: Path) -> Path:
    """Return where it is written how a predictions file was made."""
    return Path(predictions).with_suffix(".json")


def write_origin(predictions: Path, origin: dict) -> None:
    """Write beside a predictions file how it was made, with the file's own checksum."""
    write_json(origin_file(predictions), {**origin, "predictions_sha256": sha256(predictions)})


def read_origin(predictions: Path) -> dict:
    """Return how a predictions file was made; empty when that is not written, or written of another content.

    Raises
    ------
    UserError
        It is written in a file that cannot be read.
    """
    path = origin_file(predictions)
    origin = read_json(path, dict) if path.exists() else {}
    checksums = [origin.get(name, "") for name in ("predictions_sha256", "checkpoint_sha256")]
    if not all(isinstance(checksum, str) for checksum in checksums):
        raise UserError(f"{path}: a checksum in it is not text; delete the file")
    return origin if origin and checksums[0] == sha256(predictions) else {}


def refuse_changed_predictions(predictions: Path) -> None:
    """Raise `UserError` if a predictions file is not the one that was written with the lineage beside it."""
    path = origin_file(predictions)
    stated = path.is_file() and "predictions_sha256" in read_json(path, dict)
    if stated and predictions.is_file() and not read_origin(predictions):
        raise UserError(
            f"{predictions}: changed since {path.name} was written beside it; predict again, or remove {path.name} if "
            "the change is meant"
        )


def chain(lineage: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Yield (stage, version, settings, files read) of a lineage and of those before it, the latest first, each once.

    A setting is told as "name value", a file as "path: SHA-256".
    """
    told = set()
    waiting = [lineage]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, Mapping):
            continue
        earlier = one.get("earlier")
        waiting += earlier if isinstance(earlier, list) else []
        row = (
            str(one.get("stage", "")),
            _version(one),
            _pairs(one.get("settings"), " "),
            [*_pairs(one.get("inputs"), ": "), *_pairs(one.get("sha256") and {one.get("path"): one["sha256"]}, ": ")],
        )
        if repr(row) not in told:
            told.add(repr(row))
            yield row


def earlier_stage(lineage: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    """Return the lineage of a stage among those just before; empty where it is not there."""
    earlier = lineage.get("earlier")
    stages = earlier if isinstance(earlier, list) else []
    return next((one for one in stages if isinstance(one, Mapping) and one.get("stage") == stage), {})


def trained_on_sources(finetuning: Mapping[str, Any]) -> list[Source]:
    """Return the data sets that a fine-tuned network has seen the labels of, those of a fine-tuned start included."""
    if not finetuning:
        return []
    return [source_of(earlier_stage(finetuning, "build")), *trained_on_sources(earlier_stage(finetuning, "finetune"))]


def started_anew(finetuning: Mapping[str, Any]) -> bool:
    """Tell whether the network of a fine-tuning began at random weights, or with those of one that did."""
    settings = finetuning.get("settings")
    if not isinstance(settings, Mapping) or "pretrained" not in settings:
        return False
    return settings["pretrained"] is None or started_anew(earlier_stage(finetuning, "finetune"))


def labels_not_learnt(finetuning: Mapping[str, Any]) -> set[str]:
    """Return the labels that a fine-tuning states it could not teach; a kept head has what it has learnt before."""
    stated, settings = finetuning.get(NOT_LEARNT), finetuning.get("settings")
    found = {name for name in stated if isinstance(name, str)} if isinstance(stated, list) else set()
    if isinstance(settings, Mapping) and settings.get("keep_head"):
        found &= labels_not_learnt(earlier_stage(finetuning, "finetune"))
    return found


def _version(one: Mapping[str, Any]) -> str:
    if "version" not in one:
        return str(one.get("note", NOT_RECORDED))
    commit = one.get("commit")
    return f"{one['version']}, commit {commit}" if commit else str(one["version"])


def _pairs(table: Any, between: str) -> list[str]:
    """Return the entries of a mapping as short texts; entries of entries are spelled out."""
    if not isinstance(table, Mapping):
        return []
    pairs = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            pairs += [f"{name} {pair}" for pair in _pairs(value, between)]
        elif isinstance(value, list):
            pairs.append(f"{name}{between}{len(value)} values")
        else:
            pairs.append(f"{name}{between}{value}")
    return pairs
