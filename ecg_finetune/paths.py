"""The one table of every file and folder of the pipeline.

Scripts take their default paths from it, tests check it, and FILE_LOCATIONS.md is printed from it
(`python -m ecg_finetune.documents`), so the three cannot disagree.
"""

from dataclasses import dataclass
from pathlib import Path

from ecg_finetune.waveform import lead_number


@dataclass(frozen=True)
class Artefact:
    """One file or folder: where it is below the base folder, who makes it and what it holds.

    `{n}` in `location` is the lead number (see `waveform.lead_number`), `{set}` and `{time}` name one evaluation run.
    """

    location: str
    made_by: str
    content: str


CONFIG = "labels/ecg_fm_labeler_config"
COMPUTED = "labels/computed_labels"
LEAD = "preprocess/data/lead_{n}_duplicated"
TEST = "build/data/test_lead{n}_duplicated"
FINETUNE = "build/data/finetune_lead{n}_duplicated"
SEGMENTED = f"{FINETUNE}/segmented_5s"
MANIFESTS = f"{FINETUNE}/manifests"
# What stands beside a folder of many files has the folder's name and one of these endings.
RUN, LOCK, PARTIAL = ".run.json", ".lock", ".partial"
REPORT, JOURNAL, QUALITY = ".report.csv", ".journal.csv", ".quality.html"

# fmt: off
ARTEFACTS: dict[str, Artefact] = {
    # What the user brings.
    "machine_measurements": Artefact("labels/label_inputs/machine_measurements.csv", "MIMIC-IV-ECG", "`study_id`, `report_0`..`report_17` and more; 800,035 rows, 183 MB"),
    "record_list": Artefact("split/data/record_list.csv", "MIMIC-IV-ECG, sources", "`subject_id,study_id,file_name,ecg_time,path`; 800,035 rows, 83 MB; of another data set `subject_id,study_id,path,name,age,sex` and more"),
    "raw_root": Artefact("preprocess/data/mimic-iv-ecg", "MIMIC-IV-ECG", "the folder that holds `files/` (a link will do); 96 GB of WFDB records"),
    "pretrained": Artefact("finetune/data/mimic_iv_ecg_physionet_pretrained.pt", "ECG-FM", "the pretrained checkpoint of ECG-FM (1.1 GB)"),
    # sources
    "record_list_left_out": Artefact("split/data/record_list.left_out.csv", "sources", "`name,reason`: the recordings of a data set that are not below the root, or not listed"),
    "subjects": Artefact("split/data/subjects.csv", "sources", "`study_id,subject_id,age,sex` and more: what groups the recordings"),
    "known": Artefact(f"{COMPUTED}/known.csv", "sources", "`label,known,positive,unknown`: how many recordings of each"),
    # labels
    "labeler_config": Artefact(CONFIG, "this repository", "the labeler's knowledge base: JSON pattern files, text normalisation tables, `label_def.csv`"),
    "computed_labels": Artefact(COMPUTED, "labels, sources", "the folder of labels"),
    "labels": Artefact(f"{COMPUTED}/labels.csv", "labels, sources", "`idx` + a column per label, 0/1, empty where unknown; row = row of machine_measurements.csv after the split filter, or of record_list.csv"),
    "y": Artefact(f"{COMPUTED}/y.npy", "labels, sources", "float32 (rows, labels): hard labels, NaN where unknown"),
    "y_soft": Artefact(f"{COMPUTED}/y_soft.npy", "labels, sources", "float32 (rows, labels): probabilities, NaN where unknown"),
    "policy_differences": Artefact(f"{COMPUTED}/policy_differences.csv", "labels", "`idx,label,ecg-fm,asserted`: the cells in which the two policies give another probability; with them either policy's labels can be made from the other's"),
    "label_def_recomputed": Artefact(f"{COMPUTED}/label_def_recomputed.csv", "labels, sources", "`name,count,pos_percent,pos_weight` (of other data sets also `combine`): count, fraction p of the rows that know it, (1-p)/p; 0.0 where a label never occurs"),
    "label_def_official": Artefact(f"{COMPUTED}/label_def_official_17.csv", "labels", "copy of the configuration's label_def.csv: `name` and ECG-FM's published counts"),
    "pos_weight": Artefact(f"{COMPUTED}/pos_weight.txt", "labels, sources", "a number per label, 8 decimals, space separated, one line; over all rows that know it"),
    "study_id_mapping": Artefact(f"{COMPUTED}/study_id_mapping.csv", "labels, sources", "`idx,study_id,split`"),
    "unmatched": Artefact(f"{COMPUTED}/unmatched.csv", "labels, sources", "`words,count`: the words of the reports that no pattern took, or the codes of a data set that no table has, most frequent first"),
    "labels_lineage": Artefact(f"{COMPUTED}/labels.json", "labels, sources", "lineage: settings, policy or source, SHA-256 of what was read and written"),
    "labels_lock": Artefact(f"{COMPUTED}{LOCK}", "labels, sources", "held during a run"),
    # split
    "meta_split": Artefact("split/data/meta_split.csv", "split", "`save_file,split`: `mimic_iv_ecg_<study_id>.mat`; train, valid or test"),
    "split_left_out": Artefact("split/data/meta_split.left_out.csv", "split", "`study_id,reason`: with `--from-split`, the studies that only the record list or only the given split has"),
    "split_lineage": Artefact("split/data/meta_split.json", "split", "lineage: seed, fractions, stratification, source, digest; SHA-256 of what was read and written"),
    # preprocess
    "lead": Artefact(LEAD, "preprocess", "`<save_file>` per record: MATLAB 5, compressed, `feats` float32 (12, 5000) and its rates, sizes and `idx` (study_id)"),
    "report": Artefact(f"{LEAD}{REPORT}", "preprocess", "one row per record of meta_split.csv: `save_file,study_id,status,detail` and signal figures"),
    "quality": Artefact(f"{LEAD}{QUALITY}", "preprocess", "counts per status, and Lead-I strips of each kind on ECG paper"),
    "lead_run": Artefact(f"{LEAD}{RUN}", "preprocess", "lineage; a rerun with other settings is refused"),
    "lead_journal": Artefact(f"{LEAD}{JOURNAL}", "preprocess", "during a run: the report's rows of the records finished so far"),
    "lead_lock": Artefact(f"{LEAD}{LOCK}", "preprocess", "held during a run"),
    "lead_partial": Artefact(f"{LEAD}/{PARTIAL}", "preprocess", "during a run: unfinished files"),
    # build
    "test": Artefact(TEST, "build", "the folder of the test set"),
    "test_mats": Artefact(f"{TEST}/mats", "build", "links to the 10-second records of the test records"),
    "test_file_list": Artefact(f"{TEST}/test_file_list.csv", "build", "`idx,study_id,save_file`"),
    "test_labels": Artefact(f"{TEST}/test_labels.csv", "build", "`idx` (= study_id) + a column per label, 0, 1 or empty (unknown)"),
    "test_label_def": Artefact(f"{TEST}/label_def.csv", "build", "`name,count,pos_percent,pos_weight,combine` over the test records"),
    "test_study_id_mapping": Artefact(f"{TEST}/study_id_mapping.csv", "build", "`idx,study_id,split` of the test records"),
    "finetune_data": Artefact(FINETUNE, "build", "the folder of segments and manifests"),
    "segments": Artefact(SEGMENTED, "build", "`<base>_<0 or 1>.mat`: `feats` float32 (12, 2500), `curr_sample_rate`, `idx` (row in y.npy), `original_idx` (study_id)"),
    "manifests": Artefact(MANIFESTS, "build", "the folder fairseq-signals reads"),
    "manifest": Artefact(f"{MANIFESTS}/{{split}}.tsv", "build", "`train.tsv`, `valid.tsv`, `test.tsv`: a line with the root folder, then `path<TAB>2500`"),
    "manifest_y": Artefact(f"{MANIFESTS}/y.npy", "build", "float32 (segments, labels), NaN where a label is unknown"),
    "manifest_label_def": Artefact(f"{MANIFESTS}/label_def.csv", "build", "`name,count,pos_percent,pos_weight,combine` over the train records"),
    "manifest_pos_weight": Artefact(f"{MANIFESTS}/pos_weight.txt", "build", "a number per label, 8 decimals, one line; from the train records that know it"),
    "original_idx_order": Artefact(f"{MANIFESTS}/original_idx_order.npy", "build", "int64 (segments,): study_id of each row of y.npy"),
    "leads": Artefact(f"{MANIFESTS}/leads.npy", "finetune", "`--engine torch`: float32 (segments, 2500), the leads of train.tsv and then of valid.tsv, so that no epoch opens their files (14 GB for MIMIC-IV-ECG); made anew when the segments are others, may be deleted when no run uses it, and build's `--overwrite` does so"),
    "leads_idx": Artefact(f"{MANIFESTS}/leads_idx.npy", "finetune", "int64 (segments,): the row of y.npy of each row of leads.npy"),
    "leads_run": Artefact(f"{MANIFESTS}/leads.npy{RUN}", "finetune", "which segments leads.npy holds, and how many are packed"),
    "leads_partial": Artefact(f"{MANIFESTS}/leads.npy{PARTIAL}", "finetune", "leads.npy while it is made"),
    "leads_lock": Artefact(f"{MANIFESTS}/leads.npy{LOCK}", "finetune", "held while leads.npy is made"),
    "left_out": Artefact("build/data/lead_{n}_left_out.csv", "build", "`save_file,study_id,split,reason`: the records of meta_split.csv that were not built"),
    "test_checksums": Artefact(f"{TEST}/test_checksums.csv", "build", "`study_id,crc32` of each 10-second record as it was when the test set was built"),
    "test_lineage": Artefact(f"{TEST}/build.json", "build", "lineage of the test set"),
    "manifests_lineage": Artefact(f"{MANIFESTS}/build.json", "build", "lineage of segments and manifests"),
    "test_run": Artefact(f"{TEST}{RUN}", "build", "the settings of the test set; a rerun with others is refused"),
    "test_lock": Artefact(f"{TEST}{LOCK}", "build", "held during a run"),
    "finetune_data_run": Artefact(f"{FINETUNE}{RUN}", "build", "the settings of segments and manifests; a rerun with others is refused"),
    "finetune_data_lock": Artefact(f"{FINETUNE}{LOCK}", "build", "held during a run"),
    # fine-tuning
    "finetune": Artefact("finetune/data", "finetune", "checkpoints, training log and curves, the exact command or settings used"),
    "checkpoint_best": Artefact("finetune/data/checkpoint_best.pt", "finetune", "the checkpoint with the lowest valid loss"),
    "checkpoint_last": Artefact("finetune/data/checkpoint_last.pt", "finetune", "`--engine torch`: weights, optimiser, random state and position, from which `--resume` goes on"),
    "training_log": Artefact("finetune/data/training_log.csv", "finetune", "`--engine torch`: a row per epoch: `epoch,updates,train_loss,valid_loss,auroc,auprc,auroc_macro,best,segments_per_second,seconds`"),
    "training_curves": Artefact("finetune/data/training_curves.png", "finetune", "`--engine torch`: loss and AUROC against the epoch"),
    "events": Artefact("finetune/data/tensorboard", "finetune", "`--tensorboard`: event files, whose steps are segments seen"),
    "sweep": Artefact("finetune/data/sweep.csv", "finetune", "several `--lr`: a row for each rate, whose run is in `lr_<rate>`: `lr,best_epoch,valid_loss,auroc,auprc,auroc_macro,folder`, scores on valid"),
    "finetune_settings": Artefact("finetune/data/settings.json", "finetune", "the settings, the SHA-256 of every input, versions, and the best epoch"),
    "finetune_label_def": Artefact("finetune/data/label_def.csv", "finetune", "the labels of the checkpoint in the order of its outputs: a copy of the manifests' label_def.csv"),
    "finetune_command": Artefact("finetune/data/command.sh", "finetune", "`--engine fairseq`: the exact command"),
    "training_records": Artefact("finetune/data/training_records.csv", "finetune", "`study_id,subject_id,split` of every record the checkpoint, or the fine-tuned one it started from, was trained or validated on; a row `,,unlisted` where those of the start are not known"),
    "finetune_lock": Artefact("finetune/data/run.lock", "finetune", "held during a run"),
    # eval
    "eval": Artefact("eval/data", "eval", "the folder of every evaluation"),
    "predictions": Artefact("eval/data/predictions_{set}_{time}.csv", "eval", "`study_id`, then a probability column per label, named by it"),
    "predictions_origin": Artefact("eval/data/predictions_{set}_{time}.json", "eval", "which checkpoint made the predictions, and how"),
    "embeddings": Artefact("eval/data/embeddings_{set}.npy", "eval", "`--embeddings`: float32 (records, embed dim), the mean over the frames of each record, which the head classifies"),
    "embeddings_study_id": Artefact("eval/data/embeddings_{set}.csv", "eval", "`study_id` of each row of embeddings_{set}.npy"),
    "embeddings_origin": Artefact("eval/data/embeddings_{set}.json", "eval", "which checkpoint made the embeddings, and how"),
    "eval_lock": Artefact("eval/data/{set}_{time}.lock", "eval", "held during a run"),
    "metrics": Artefact("eval/data/metrics_{set}_{time}.csv", "eval", "`label,n_pos,n_neg,auroc,auprc,accuracy,recall,precision,f1,specificity,npv` and more; a row per label, `__macro__`, `__micro__`"),
    "metrics_lineage": Artefact("eval/data/metrics_{set}_{time}.json", "eval", "lineage: settings, how thresholds and calibration were chosen, SHA-256 of what was read and written"),
    "comparison": Artefact("eval/data/comparison_{set}_{time}.csv", "eval", "with `--compare`: AUROC and AUPRC of both runs and their paired difference with its interval"),
    "noise_metrics": Artefact("eval/data/noise_{set}_{time}.csv", "eval_noise", "`kind,snr,label,n_pos,n_neg,auroc,auprc` with intervals and the change against clean; a row per kind and strength of noise and label"),
    "noise_report": Artefact("eval/data/noise_{set}_{time}.html", "eval_noise", "the page: AUROC and AUPRC against the signal-to-noise ratio"),
    "noise_lineage": Artefact("eval/data/noise_{set}_{time}.json", "eval_noise", "lineage: settings, checkpoints, noise, the stages before"),
    "noise_predictions": Artefact("eval/data/noise_{set}_{run}", "eval_noise", "the probabilities of one checkpoint under each kind and strength of noise, `<condition>.npy` float64 (records, labels), from which a run goes on; `{run}` stands for what decides them; may be deleted"),
    "calibration": Artefact("eval/data/calibration_{set}_{time}.csv", "eval", "`label,probabilities`, then intercept, slope, expected / observed and ECE with intervals, as predicted and calibrated"),
    "reliability": Artefact("eval/data/reliability_{set}_{time}.csv", "eval", "reliability curves: a row per bin of equally many records"),
    "decision_curves": Artefact("eval/data/decision_curves_{set}_{time}.csv", "eval", "`label,probabilities,threshold,net_benefit,...,treat_all,prevalence`"),
    "operating_points": Artefact("eval/data/operating_points_{set}_{time}.csv", "eval", "`label,rule,threshold,tp,fp,fn,tn`, then recall, specificity, precision and NPV with intervals"),
    "prevalence": Artefact("eval/data/prevalence_{set}_{time}.csv", "eval", "with `--prevalence`: PPV and NPV of each operating point at other prevalences"),
    "estimands": Artefact("eval/data/estimands_{set}_{time}.csv", "eval", "metrics per record, of each patient's first ECG, and patient-weighted"),
    "label_groups": Artefact("eval/data/label_groups_{set}_{time}.csv", "eval", "macro averages of rhythm, conduction, what Lead I cannot show, and all labels with and without these"),
    "definitions": Artefact("eval/data/definitions_{set}_{time}.csv", "eval", "metrics under each definition of the labels: policy ecg-fm, asserted, definite only, uncertain excluded"),
    "subgroups": Artefact("eval/data/subgroups_{set}_{time}.csv", "eval", "with `--subgroups`: metrics in each group, differences to all other records, p values"),
    "published": Artefact("eval/data/published_{set}_{time}.csv", "eval", "published Lead-I results beside ours"),
    "beats": Artefact("eval/data/beats_{set}_{time}.csv", "eval", "with `--baselines`: `study_id,beats,heart_rate,rr_irregularity` of each record"),
    "baselines": Artefact("eval/data/baselines_{set}_{time}.csv", "eval", "with `--baselines`: rules on heart rate and RR irregularity beside the network"),
    "co_occurrence": Artefact("eval/data/co_occurrence_{set}_{time}.csv", "eval", "`labels,label,other,share`: of the records with a label, those that have another, in truth and as predicted"),
    "flow": Artefact("eval/data/flow_{set}_{time}.csv", "eval", "how many records entered and were excluded at each stage, why, and with which labels"),
    "checklist": Artefact("eval/data/tripod_ai_{set}_{time}.md", "eval", "the TRIPOD+AI checklist with what this run knows, and gaps that the authors fill"),
    "html_report": Artefact("eval/data/report_{set}_{time}.html", "eval", "the report: self-contained HTML"),
    # export
    "model_folder": Artefact("export/data/{model}", "export", "the model folder, to give away"),
    "model_config": Artefact("export/data/{model}/config.json", "export", "architecture, labels with thresholds and calibration, lead, input, lineage, SHA-256 of every other file"),
    "model_weights": Artefact("export/data/{model}/model.safetensors", "export", "the weights under the names they have in the checkpoint"),
    "model_onnx": Artefact("export/data/{model}/model.onnx", "export", "the network for onnxruntime: `lead` float32 (batch, samples) to `logits` float32 (batch, labels)"),
    "model_int8": Artefact("export/data/{model}/model_int8.onnx", "export", "with `--precision int8`: the same, its weights in 8 bits"),
    "model_card": Artefact("export/data/{model}/README.md", "export", "the model card, in the form of the Hugging Face Hub"),
    "model_metrics": Artefact("export/data/{model}/metrics.csv", "export", "the metrics that the card states, as eval wrote them"),
    "model_checks": Artefact("export/data/{model}/checks.json", "export", "what export compared with the checkpoint, and how far they differ"),
    "model_lock": Artefact("export/data/{model}.lock", "export", "held during a run"),
    # predict
    "prediction": Artefact("predict/data/{time}", "predict", "what a model says of recordings"),
    "prediction_lock": Artefact("predict/data/{time}.lock", "predict", "held during a run"),
    "recording_predictions": Artefact("predict/data/{time}/predictions.csv", "predict", "`recording,lead,rate,seconds,windows,excluded_windows,status,detail,found`, then a calibrated probability per label; a row per recording"),
    "window_predictions": Artefact("predict/data/{time}/windows.csv", "predict", "`recording,start_s,status,detail`, then a calibrated probability per label; a row per window of 10 s"),
    "prediction_report": Artefact("predict/data/{time}/report.html", "predict", "the page: strips, windows, probabilities with thresholds"),
    "prediction_lineage": Artefact("predict/data/{time}/predictions.json", "predict", "lineage: settings, the model folder and all before it"),
}
# fmt: on


def locate(base_dir: Path, name: str, lead: str = "I", **fields: str) -> Path:
    """Return where the artefact `name` is below `base_dir` for a lead.

    `fields` fill the remaining placeholders of the table (`split`, `set`, `time`).

    Raises
    ------
    KeyError
        The table has no such artefact, or a placeholder is not given.
    """
    return Path(base_dir) / ARTEFACTS[name].location.format(n=lead_number(lead), **fields)


def beside(folder: Path, ending: str) -> Path:
    """Return what stands beside a folder under its name and an ending, such as `REPORT`."""
    folder = Path(folder)
    if folder.name in ("", ".."):  # the current folder, or one above
        folder = folder.resolve()
    return folder.with_name(folder.name + ending)


def inside(folder: Path, name: str, **fields: str) -> Path:
    """Return where the artefact `name` is when the user has named the folder that holds it."""
    return Path(folder) / Path(ARTEFACTS[name].location).name.format(**fields)
