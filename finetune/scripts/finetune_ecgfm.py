"""Fine-tune ECG-FM on the 5 s Lead-I segments, with fairseq-signals or in plain PyTorch.

    python finetune/scripts/finetune_ecgfm.py --pretrained mimic_iv_ecg_physionet_pretrained.pt \\
        --engine fairseq --fairseq-root ~/fairseq-signals

A small run, on any machine, from a random start:

    python finetune/scripts/finetune_ecgfm.py --pretrained none --tiny

For signals of a wrist, and three learning rates compared on the valid split:

    python finetune/scripts/finetune_ecgfm.py --engine torch --augment wearable --lr 1e-6,1e-5,5e-5

Several GPUs share each batch:

    torchrun --nproc-per-node 4 finetune/scripts/finetune_ecgfm.py --engine torch

Reads build/data/finetune_lead1_duplicated/manifests: train.tsv (about 1.26 million segments for all of
MIMIC-IV-ECG), valid.tsv (160 thousand), y.npy, original_idx_order.npy, label_def.csv and pos_weight.txt. The network
gets an output for each label of label_def.csv. Labels that are not known (NaN in y.npy) are left out of the loss, which
only --engine torch can do.
Writes into finetune/data: checkpoint_best.pt (362 MB), the network with the lowest valid loss, in fairseq-signals'
format; label_def.csv and settings.json; with --engine torch checkpoint_last.pt (1.1 GB), training_log.csv (a row per
epoch) and training_curves.png; with --engine fairseq command.sh. Of several learning rates each run has a folder
lr_<rate> in there, and sweep.csv compares them.
With --engine torch the leads of all segments are packed into leads.npy beside the manifests (14 GB; it may be deleted
when no run uses it), and an interrupted run goes on from checkpoint_last.pt when the same command is given again.
Settings for fairseq-signals itself come last, after "--": ... -- common.fp16=true
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import math
import os
import shlex
import sys
from pathlib import Path

from ecg_training.checkpoint_folder import results_in
from ecg_training.settings import ALL, Augmentation, FinetuneSettings, manifest_files

from ecg_finetune.cli import (
    MOST_PROCESSES,
    Listed,
    add_device,
    add_lead,
    add_path,
    between_commas,
    execute,
    fraction,
    integer_from,
    non_negative_int,
    positive_int,
    real_number,
    stage_parser,
)
from ecg_finetune.device import choose_device, choose_precision
from ecg_finetune.files import UserError, existing_file
from ecg_finetune.label_set import read_label_set
from ecg_finetune.lineage import Inputs
from ecg_finetune.operating_system import usable_cores
from ecg_finetune.paths import inside

# The engines are imported where they run: PyTorch takes seconds to import, and `--help` needs none of it.

# Defaults: as ECG-FM was fine-tuned; and for a random start, which needs a far larger learning rate.
DEFAULTS = {"epochs": 100, "lr": Listed([1e-6]), "batch_size": 256}
RANDOM_START_DEFAULTS = {"epochs": 10, "lr": Listed([1e-3]), "batch_size": 32}
MOST_WORKERS = 8  # reading segments is fast: more would wait for the network on any machine


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = stage_parser(__doc__)
    add_files(parser)
    add_engine(parser)
    add_training(parser)
    add_recipe(parser)
    add_augmentation(parser)
    add_hardware(parser)
    add_run_folder(parser)
    return parser


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add what says where to read and write."""
    add_path(parser, "--pretrained", "pretrained", "the checkpoint to start from, or `none`: random weights")
    parser.add_argument(
        "--keep-head",
        action="store_true",
        help="keep the head of a fine-tuned --pretrained, whose labels must be those of the manifests (label_def.csv) "
        "in the same order (default: draw a new head)",
    )
    add_lead(parser)
    parser.add_argument(
        "--input",
        choices=("duplicate", "zero"),
        default="duplicate",
        help="duplicate: the lead in all 12 channels of the network's input; zero: in its own channel, zeros in the "
        "others (default: duplicate)",
    )
    add_path(parser, "--manifests", "manifests", "the folder with train.tsv, valid.tsv, y.npy, label_def.csv and more")
    parser.add_argument(
        "--leads",
        type=Path,
        metavar="PATH",
        help="--engine torch: the leads of all segments in one file, made at the first run (14 GB for MIMIC-IV-ECG; "
        "default: leads.npy in --manifests)",
    )
    add_path(parser, "--record-list", "record_list", "the patients, for the list of records trained on; may be missing")
    add_path(parser, "--output-dir", "finetune", "where checkpoints and logs go; one folder per run")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add what chooses the engine, and what only fairseq-signals takes."""
    parser.add_argument(
        "--engine",
        choices=("auto", "fairseq", "torch"),
        default="auto",
        help="fairseq: run fairseq-hydra-train; torch: the engine of this project; auto: fairseq where it has all it "
        "needs, else torch (default: auto)",
    )
    parser.add_argument(
        "--fairseq-root",
        type=Path,
        default=os.environ.get("FAIRSEQ_SIGNALS"),
        metavar="DIR",
        help="the clone of fairseq-signals, for --engine fairseq (default: $FAIRSEQ_SIGNALS, else none)",
    )
    parser.add_argument(
        "--print-command",
        action="store_true",
        help="only show the fairseq-hydra-train command, ready for a shell, and run nothing (default: run)",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="-- KEY=VALUE",
        help="settings for fairseq-hydra-train, after everything else (default: none)",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add what decides the weights that come out."""
    parser.add_argument("--epochs", type=positive_int, help="passes over the data (default: 100; random start: 10)")
    parser.add_argument(
        "--max-update",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="stop after N updates, be it within an epoch; 0 = no limit (default: 0)",
    )
    parser.add_argument(
        "--patience",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="stop after N epochs without a lower valid loss (compared to 3 decimals); 0 = never (default: 0)",
    )
    parser.add_argument(
        "--lr",
        type=between_commas(positive_number),
        metavar="RATE,...",
        help="learning rate of Adam; of several, each has a run in a folder of its own, and a table compares them on "
        "the valid split (default: 1e-06; random start: 1e-03)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        help="segments per update, over all GPUs and accumulated parts together (default: 256; random start: 32)",
    )
    parser.add_argument(
        "--seed", type=non_negative_int, default=1, help="of the new head, the batches and dropout (default: 1)"
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="with --pretrained none: a network of 0.1 million parameters (default: ECG-FM's size)",
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add how the network is trained where not as ECG-FM was."""
    parser.add_argument(
        "--schedule",
        choices=("constant", "cosine"),
        default="constant",
        help="the learning rate after the warm-up: constant, or half a cosine down to 0 (default: constant)",
    )
    parser.add_argument(
        "--warmup",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="updates over which the learning rate grows to --lr; 0 = none (default: 0)",
    )
    parser.add_argument(
        "--layer-decay",
        type=share_above_0,
        default=1.0,
        metavar="SHARE",
        help="the learning rate of each transformer layer is that of the one above times this; the head has --lr "
        "(default: 1)",
    )
    parser.add_argument(
        "--freeze-layers",
        type=layers,
        default=0,
        metavar="{N,all}",
        help="train neither the first N transformer layers nor what is before them; all = the head alone, a linear "
        "probe, for which features are computed once; 0 = only the convolutions are frozen (default: 0)",
    )
    parser.add_argument(
        "--weight-decay",
        type=fraction,
        default=0.0,
        metavar="SHARE",
        help="decoupled weight decay, which each update takes off times the learning rate (default: 0)",
    )
    parser.add_argument(
        "--drop-path",
        type=share_below_1,
        default=0.0,
        metavar="P",
        help="the probability that a segment skips a branch of the last transformer layer, falling to 0 in the first "
        "(default: 0)",
    )


def add_augmentation(parser: argparse.ArgumentParser) -> None:
    """Add what is done to train segments."""
    parser.add_argument(
        "--augment",
        choices=("none", "wearable"),
        default="none",
        help="wearable: give train segments the noise of wearable recorders and the effects of their electronics, "
        "drawn anew in each epoch (default: none)",
    )
    parser.add_argument(
        "--augment-noise",
        type=fraction,
        metavar="P",
        help="with --augment: the probability that a segment gets noise, of one to three kinds (default: 0.5)",
    )
    parser.add_argument(
        "--augment-effects",
        type=fraction,
        metavar="P",
        help="with --augment: the probability of each effect of devices (default: 0.1)",
    )
    parser.add_argument(
        "--augment-snr",
        type=decibel_range,
        metavar="LOW,HIGH",
        help="with --augment: the range of signal-to-noise ratios in dB; write --augment-snr=-6,24 (default: -6,24)",
    )
    parser.add_argument(
        "--noise-root",
        type=Path,
        default=None,
        metavar="DIR",
        help="with --augment: the MIT-BIH Noise Stress Test Database (records bw, em and ma), whose first half is used "
        "(default: synthetic noise of the same spectra)",
    )


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """Add how the work is done on this machine."""
    parser.add_argument(
        "--accumulate",
        type=positive_int,
        default=1,
        metavar="N",
        help="work through each batch in N parts, which takes 1/N of the memory and gives the same update (default: 1)",
    )
    add_device(parser)
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="torch.compile the network; auto: on a GPU for runs of 2,000 updates and more (default: auto)",
    )
    parser.add_argument(
        "--workers",
        type=integer_from(1, MOST_PROCESSES),
        default=min(usable_cores(), MOST_WORKERS),
        metavar="N",
        help="processes that read segments, once, and with --augment change them in every epoch (default: the cores "
        f"that this process may use, at most {MOST_WORKERS})",
    )


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    """Add what happens with a run that --output-dir holds already."""
    parser.add_argument(
        "--save-every",
        type=non_negative_int,
        default=500,
        metavar="N",
        help="write checkpoint_last.pt every N updates besides every epoch; 0 = only every epoch (default: 500)",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write event files for TensorBoard into --output-dir, too (default: only training_log.csv)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --output-dir, to more --epochs if you like, or start one if there is none "
        "(default: go on only if it was interrupted and all settings are the same)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the run in --output-dir and start over (default: refuse)"
    )


def positive_number(text: str) -> float:
    """Parse a finite number above 0 for argparse."""
    value = real_number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not a number above 0")
    return value


def share_above_0(text: str) -> float:
    """Parse a number above 0 and up to 1 for argparse."""
    value = fraction(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not above 0")
    return value


def share_below_1(text: str) -> float:
    """Parse a number from 0 and below 1 for argparse."""
    value = fraction(text)
    if value == 1:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not below 1")
    return value


def layers(text: str) -> int | str:
    """Parse `--freeze-layers` for argparse."""
    if text == ALL:
        return ALL
    try:
        return integer_from(0, 1024)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor {ALL}") from None


def decibel_range(text: str) -> tuple[float, ...]:
    """Parse a range of signal-to-noise ratios for argparse."""
    low, high = ends = between_commas(real_number, 2, 2)(text)
    if not -60 <= low < high <= 60:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not a range within -60 to 60 dB")
    return ends


def resolve(args: argparse.Namespace) -> None:
    """Fill in the defaults that depend on --pretrained, and expand `~`, which a shell leaves in `--option=~/file`."""
    for name in ("pretrained", "manifests", "leads", "record_list", "output_dir", "fairseq_root", "noise_root"):
        path = getattr(args, name)
        try:
            setattr(args, name, path and path.expanduser())
        except RuntimeError:
            raise UserError(f"{path}: there is no such user; give the path in full") from None
    args.leads = args.leads or inside(args.manifests, "leads")
    if args.augment == "wearable":
        for name in ("noise", "effects", "snr"):
            option = f"augment_{name}"
            if getattr(args, option) is None:
                value = getattr(Augmentation(), name)
                setattr(args, option, Listed(value) if name == "snr" else value)
    for name, default in (RANDOM_START_DEFAULTS if is_random_start(args) else DEFAULTS).items():
        if getattr(args, name) is None:
            setattr(args, name, default)


def is_random_start(args: argparse.Namespace) -> bool:
    """Tell whether there is no checkpoint to start from."""
    return str(args.pretrained) == "none"


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Choose the engine and fine-tune."""
    check_options(args)
    inputs.add(args.pretrained, args.record_list, *manifest_files(args.manifests))
    engine = choose_engine(args)
    print(f"engine {engine}: {args.epochs} epochs, learning rate {args.lr}, batch size {args.batch_size}", flush=True)
    return run_fairseq(args) if engine == "fairseq" else run_torch(args)


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    random_start = is_random_start(args)
    if args.tiny and not random_start:
        raise UserError("--tiny has no pretrained checkpoint; give --pretrained none with it")
    if args.keep_head and random_start:
        raise UserError("--keep-head needs a fine-tuned checkpoint; --pretrained none has no head to keep")
    if args.resume and args.overwrite:
        raise UserError("--resume goes on with a run and --overwrite deletes it; give one of them")
    if random_start and args.freeze_layers:
        raise UserError("--freeze-layers needs a checkpoint; layers frozen at random weights would pass on noise")
    if args.freeze_layers == ALL:
        needless = {"--augment wearable": args.augment != "none", "--layer-decay": args.layer_decay < 1}
        for option in (option for option, given in (needless | {"--drop-path": args.drop_path > 0}).items() if given):
            raise UserError(f"--freeze-layers all computes features once and trains the head alone; omit {option}")
    of_augment = ("augment_noise", "augment_effects", "augment_snr", "noise_root")
    for name in (name for name in of_augment if args.augment == "none" and getattr(args, name) is not None):
        raise UserError(f"--{name.replace('_', '-')} is for --augment wearable; give that, too, or omit it")
    if args.accumulate > args.batch_size:
        raise UserError(f"--accumulate {args.accumulate} is more than --batch-size {args.batch_size}; lower it")
    if args.pretrained.resolve() in [path.resolve() for path in results_in(args.output_dir)]:
        raise UserError(f"{args.pretrained}: this run would replace it; choose another --output-dir")


def choose_engine(args: argparse.Namespace) -> str:
    """Return the engine to use; of `auto`, say why if it is torch."""
    if args.engine == "torch":
        if args.print_command or args.overrides:
            raise UserError("--print-command and settings after -- are for --engine fairseq, but the engine is torch")
        return "torch"
    obstacles = [(f"{option} is for --engine torch", "omit it") for option in options_for_torch(args)]
    part = args.batch_size / args.accumulate
    if part % 1 or (part > 8 and part % 8):
        sizes = f"--batch-size {args.batch_size} with --accumulate {args.accumulate}"
        remedy = "change one of them: fairseq-signals would silently reduce the parts"
        obstacles.append((f"{sizes} makes parts that are not a multiple of 8", remedy))
    if not obstacles and not args.print_command:
        from ecg_training.fairseq_engine import missing_pieces

        obstacles = missing_pieces(args.pretrained, args.fairseq_root, trust=args.trust_checkpoint)
    if not obstacles:
        from ecg_training.fairseq_engine import unknown_labels

        obstacles = unknown_labels(args.manifests)
    if not obstacles:
        return "fairseq"
    if args.engine == "fairseq" or args.print_command or args.overrides:
        told = "; ".join(f"{what} ({remedy})" for what, remedy in obstacles)
        raise UserError(f"fairseq-signals cannot run this: {told}; or use --engine torch")
    print(f"engine torch, as fairseq-signals cannot run this: {'; '.join(what for what, _ in obstacles)}")
    return "torch"


def options_for_torch(args: argparse.Namespace) -> list[str]:
    """Return what was asked for that fairseq-signals cannot do, or not in this way."""
    asked = {
        "--pretrained none": is_random_start(args),
        "--keep-head": args.keep_head,
        "--resume": args.resume,
        f"--device {args.device}": args.device != "auto",
        "--precision bf16": args.precision == "bf16",
        "--compile on": args.compile == "on",
        f"--augment {args.augment}": args.augment != "none",
        f"--schedule {args.schedule}": args.schedule != "constant",
        "--layer-decay": args.layer_decay < 1,
        "--freeze-layers": args.freeze_layers != 0,
        "--drop-path": args.drop_path > 0,
        "--tensorboard": args.tensorboard,
        "--leads": args.leads != inside(args.manifests, "leads"),
        "more than one --lr": len(args.lr) > 1,
        "torchrun": os.environ.get("WORLD_SIZE", "1") != "1",
    }
    return [option for option, given in asked.items() if given]


def run_fairseq(args: argparse.Namespace) -> str:
    """Show the fairseq-hydra-train command, and run it unless only that was asked."""
    from ecg_training import fairseq_engine

    settings, root = settings_of(args, args.lr[0]), args.fairseq_root
    if root is None:
        root = Path("/path/to/fairseq-signals")
        print(f"note: --fairseq-root is missing; {root} stands for it below", file=sys.stderr)
    command = fairseq_engine.command_for(settings, root, args.overrides)
    print(shlex.join(command), flush=True)
    if args.print_command:
        return "the command is shown above, nothing was run"
    return fairseq_engine.finetune(settings, root, args.overrides, command, overwrite=args.overwrite)


def run_torch(args: argparse.Namespace) -> str:
    """Train with the engine of this project."""
    if not is_random_start(args) and not args.pretrained.is_file():
        raise UserError(f"{args.pretrained}: no such file; download ECG-FM's checkpoint, or use --pretrained none")
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError('--tensorboard needs the extra "tensorboard": pip install "ecg-finetune[tensorboard]"')
    from ecg_training import torch_engine
    from ecg_training.processes import join_processes, leave_processes

    processes, device = join_processes(choose_device(args.device))
    precision = str(choose_precision(args.precision, device)).removeprefix("torch.")

    def finetune(settings: FinetuneSettings) -> str:
        return torch_engine.finetune(
            settings,
            device,
            processes,
            compiled={"auto": None, "on": True, "off": False}[args.compile],
            resume=args.resume,
            overwrite=args.overwrite,
            tensorboard=args.tensorboard,
        )

    try:
        if len(args.lr) == 1:
            return finetune(settings_of(args, args.lr[0], precision))
        from ecg_training.sweep import sweep

        runs = [
            dataclasses.replace(settings_of(args, rate, precision), output=args.output_dir / f"lr_{rate:g}")
            for rate in args.lr
        ]
        return sweep(runs, finetune, inside(args.output_dir, "sweep"), processes, again=args.resume or args.overwrite)
    finally:
        leave_processes()


def settings_of(args: argparse.Namespace, lr: float, precision: str = "float32") -> FinetuneSettings:
    """Return the settings that the options stand for, with one learning rate."""
    augment = None
    if args.augment == "wearable":
        snr = tuple(args.augment_snr)
        augment = Augmentation(args.augment_noise, args.augment_effects, snr, args.noise_root)
    return FinetuneSettings(
        manifests=args.manifests,
        leads=args.leads,
        label_set=read_label_set(existing_file(inside(args.manifests, "manifest_label_def"), "the build stage")),
        output=args.output_dir,
        pretrained=None if is_random_start(args) else args.pretrained,
        record_list=args.record_list,
        lead=args.lead,
        input=args.input,
        tiny=args.tiny,
        keep_head=args.keep_head,
        trust=args.trust_checkpoint,
        epochs=args.epochs,
        max_update=args.max_update,
        patience=args.patience,
        lr=lr,
        schedule=args.schedule,
        warmup=args.warmup,
        layer_decay=args.layer_decay,
        weight_decay=args.weight_decay,
        freeze_layers=args.freeze_layers,
        drop_path=args.drop_path,
        augment=augment,
        batch_size=args.batch_size,
        accumulate=args.accumulate,
        seed=args.seed,
        workers=args.workers,
        save_every=args.save_every,
        precision=precision,
    )


def main() -> int:
    """Run the command line; of the processes that torchrun starts, only the first prints."""
    if os.environ.get("RANK", "0") == "0":
        return execute(get_parser(), run, resolve=resolve)
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        return execute(get_parser(), run, resolve=resolve)


if __name__ == "__main__":
    sys.exit(main())
