"""Print SCRIPTS.md and FILE_LOCATIONS.md from the parsers and the path table.

    python -m ecg_finetune.documents

writes both into the repository; a test fails when they differ from what this would write.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from ecg_finetune.files import replacing
from ecg_finetune.paths import ARTEFACTS
from ecg_finetune.stages import STAGES

REPOSITORY = Path(__file__).resolve().parent.parent

SCRIPTS = tuple(STAGES.values())


def load_parser(script: str) -> argparse.ArgumentParser:
    """Return what the `get_parser()` of a script (path below the repository) returns."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, REPOSITORY / script)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str((REPOSITORY / script).parent))  # as when the script is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    parser = module.get_parser()
    parser.prog = Path(script).name
    return parser


def options(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Return (how the option is written, its help with the default) for every option of a parser but --help."""
    rows = []
    for action in parser._actions:  # argparse has no public way to list its options
        if action.dest == "help":
            continue
        name = ", ".join(action.option_strings) or action.metavar or action.dest
        if action.choices and action.option_strings:
            name += " {" + ",".join(map(str, action.choices)) + "}"
        elif action.metavar and action.option_strings:
            name += f" {action.metavar}"
        rows.append((name, (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")))
    return rows


def scripts_document() -> str:
    """Return SCRIPTS.md."""
    parts = [
        "# Scripts\n",
        "Every script prints its settings first and what it did last. Exit code 0: done; 1: one line on stderr says "
        "what is wrong and what to do; 2: wrong usage; 130: stopped by Ctrl-C. "
        "Where the project is installed, `ecg-finetune STAGE` runs the same scripts from any folder. "
        "Written by `make docs` from the scripts themselves.\n",
    ]
    for stage, script in STAGES.items():
        parser = load_parser(script)
        parts += [f"## {script}\n", f"As a command: `ecg-finetune {stage}`\n"]
        parts += ["```text", parser.description.strip(), "```\n", "| option | meaning |", "|---|---|"]
        parts += [f"| `{name}` | {meaning} |".replace("\n", " ") for name, meaning in options(parser)]
        parts.append("")
    return "\n".join(parts)


def file_locations_document() -> str:
    """Return FILE_LOCATIONS.md."""
    parts = [
        "# File locations\n",
        "Every path is below the root that all scripts share: `--base-dir`, else `$ECG_FINETUNE_BASE`, else the "
        "current folder. `{n}` is the number of the lead (I is 1, II 2, III 3, aVR 4, aVL 5, aVF 6, V1 to V6 7 to 12); "
        "`{set}` is `test_lead{n}_duplicated`, `{time}` is `YYYYMMDD_HHMMSS`, "
        "`{model}` the `--name` of a model. "
        "Written by `make docs` from the table in `ecg_finetune/paths.py`.\n",
        "| path | made by | content |",
        "|---|---|---|",
    ]
    parts += [f"| `{row.location}` | {row.made_by} | {row.content} |" for row in ARTEFACTS.values()]
    return "\n".join(parts) + "\n"


DOCUMENTS = {"SCRIPTS.md": scripts_document, "FILE_LOCATIONS.md": file_locations_document}


def main() -> None:
    """Write both documents."""
    for name, document in DOCUMENTS.items():
        with replacing(REPOSITORY / name) as temporary:
            temporary.write_text(document(), encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
