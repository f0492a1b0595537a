"""--embeddings: what the head classifies, of every record, with its study."""

import json

import numpy as np
import pandas as pd
import torch
from ecg_evaluation.prediction import RecordDataset
from evaluation_world import make_world

from ecg_finetune.ecg_fm import load_classifier
from ecg_finetune.files import sha256
from ecg_finetune.paths import locate

SCRIPT = "eval/scripts/eval_ecgfm.py"


def test_embeddings_are_the_means_over_the_frames_of_each_record(tmp_path, call_script):
    base = make_world(tmp_path)
    checkpoint = locate(base, "checkpoint_best")
    run = ("--base-dir", base, "--model-path", checkpoint, "--bootstrap", 0, "--batch-size", 7, "--num-workers", 0)
    call_script(SCRIPT, *run, "--embeddings")
    model = load_classifier(checkpoint)
    for name, records in (("test", 60), ("valid", 40)):
        path = locate(base, "embeddings", set=f"{name}_lead1_duplicated")
        found, studies = np.load(path), pd.read_csv(path.with_suffix(".csv"))["study_id"]
        assert found.dtype == np.float32 and found.shape == (records, 16) and len(studies) == records
        told = json.loads(path.with_suffix(".json").read_text())
        assert told["embeddings_sha256"] == sha256(path) and told["checkpoint_sha256"] == sha256(checkpoint)
        if name == "test":
            data = RecordDataset(locate(base, "test"), studies.to_numpy())
            for row in (0, 31, 59):
                with torch.no_grad():
                    frames = model.encoder(torch.from_numpy(data[row][0])[:, None].expand(-1, 12, -1))
                np.testing.assert_allclose(found[row], frames.mean(dim=(0, 1)), atol=1e-5)
            predicted = pd.read_csv(sorted(locate(base, "eval").glob("predictions_test_*.csv"))[0])
            assert list(predicted["study_id"]) == list(studies)
    call_script(SCRIPT, *run)
    assert len(list(locate(base, "eval").glob("embeddings_*"))) == 6
    predictions = sorted(locate(base, "eval").glob("predictions_test_*.csv"))[0]
    told = call_script(SCRIPT, "--base-dir", base, "--predictions", predictions, "--embeddings", exit_code=1)
    assert "--embeddings needs the network" in told.err
