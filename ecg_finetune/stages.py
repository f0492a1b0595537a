"""The stages and their scripts: the one table that the command `ecg-finetune`, the documents and the tests read."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

# What is written after `ecg-finetune`, and the script that it runs, by its place in the repository.
STAGES = {
    "demo-data": "demo/make_demo_data.py",
    "import": "sources/scripts/import_source.py",
    "labels": "labels/scripts/create_labels_ecgfm.py",
    "split": "split/scripts/create_split.py",
    "preprocess": "preprocess/scripts/preprocess_ecgfm.py",
    "build": "build/scripts/build_test_and_finetune_data.py",
    "finetune": "finetune/scripts/finetune_ecgfm.py",
    "eval": "eval/scripts/eval_ecgfm.py",
    "eval-finetuned": "eval/scripts/eval_finetuned.py",
    "eval-noise": "eval/scripts/eval_noise.py",
    "export": "export/scripts/export_model.py",
    "predict": "predict/scripts/predict_ecg.py",
}


def script_of(stage: str) -> Path:
    """Return the script of a stage: the wheel's copy where this package was installed from one, else the clone's."""
    installed = PACKAGE / "scripts" / Path(STAGES[stage]).name
    return installed if installed.is_file() else PACKAGE.parent / STAGES[stage]


def purpose(stage: str) -> str:
    """Return the first line of the docstring of a stage's script, which is not run for it."""
    return ast.get_docstring(ast.parse(script_of(stage).read_text(encoding="utf-8"))).splitlines()[0]
