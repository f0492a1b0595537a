#!/usr/bin/env bash
# The whole pipeline, script by script, as you would run it on MIMIC-IV-ECG, here on 1,400 synthetic ECGs in its layout.
# 1 to 4 minutes on 2 cores, no GPU. Everything lands below demo/data, which every run starts afresh.
set -euo pipefail
cd "$(dirname "$0")/.."

export ECG_FINETUNE_BASE=demo/data   # every script's --base-dir
MIMIC=demo/data/mimic-iv-ecg-demo    # where a real MIMIC-IV-ECG download would be

step() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

rm -rf demo/data

# The data: record_list.csv, machine_measurements.csv and 12-lead WFDB records, some of them broken (170 MB).
step python demo/make_demo_data.py --records 1400

# Reports -> the 17 labels of ECG-FM (1 s; on MIMIC-IV-ECG half a minute).
step python labels/scripts/create_labels_ecgfm.py --machine-measurements "$MIMIC/machine_measurements.csv"

# Patients -> train, valid, test (1 s; on MIMIC-IV-ECG 10 s), the 17 labels balanced over the patients of each.
step python split/scripts/create_split.py --record-list "$MIMIC/record_list.csv" --valid-frac 0.15 --test-frac 0.25 \
    --stratify demo/data/labels/computed_labels

# WFDB -> 10 s of Lead I at 500 Hz, duplicated to 12 channels; what cannot be used is listed in the report CSV.
step python preprocess/scripts/preprocess_ecgfm.py --record-list "$MIMIC/record_list.csv" --raw-root "$MIMIC"

# The test set, and 5 s segments with fairseq manifests.
step python build/scripts/build_test_and_finetune_data.py

# A small network from a random start. With ECG-FM's checkpoint: --pretrained CHECKPOINT, without --tiny.
step python finetune/scripts/finetune_ecgfm.py --engine torch --pretrained none --tiny \
    --record-list "$MIMIC/record_list.csv"

# Predictions, metrics with intervals, report.
step python eval/scripts/eval_finetuned.py --record-list "$MIMIC/record_list.csv"

# A model folder to give away: weights, the network for onnxruntime, thresholds, a model card.
step python export/scripts/export_model.py --name demo --data "synthetic ECGs" \
    --metrics demo/data/eval/data/metrics_test_lead1_duplicated_*.csv

# What it says of 30 s that a watch has recorded.
step python predict/scripts/predict_ecg.py "$MIMIC/watch_ecg.csv" --model demo/data/export/data/demo \
    --out demo/data/predict/data/watch
