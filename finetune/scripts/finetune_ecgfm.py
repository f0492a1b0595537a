"""Fine-tune ECG-FM on the 5 s Lead-I segments, with fairseq-signals or in plain PyTorch.

    python finetune/scripts/finetune_ecgfm.py --pretrained mimic_iv_ecg_physionet_pretrained.pt \\
        --engine fairseq --fairseq-root ~/fairseq-signals

A small run, on any machine, from a random start:

    python finetune/scripts/finetune_ecgfm.py --pretrained none --tiny

Several GPUs share each batch:

    torchrun --nproc-per-node 4 finetune/scripts/finetune_ecgfm.py --engine torch

Reads build/data/finetune_lead1_duplicated/manifests: train.tsv (about 1.26 million segments for all of
MIMIC-IV-ECG), valid.tsv (160 thousand), y.npy, original_idx_order.npy and pos_weight.txt.
Writes into finetune/data: checkpoint_best.pt (362 MB), the network with the lowest valid loss, in fairseq-signals'
format; settings.json; and with --engine torch checkpoint_last.pt (1.1 GB), training_log.csv (a row per epoch) and
training_curves.png; with --engine fairseq command.sh.
With --engine torch an interrupted run goes on from checkpoint_last.pt when the same command is given again.
Settings for fairseq-signals itself come last, after "--": ... -- common.fp16=true
"""

import argparse
import contextlib
import math
import os
import shlex
import sys
from pathlib import Path

from ecg_training import fairseq_command, torch_engine
from ecg_training.processes import join_processes, leave_processes
from ecg_training.trainer import Settings

from ecg_finetune.command_line import (
    MOST_PROCESSES,
    UserError,
    add_lead,
    add_path,
    execute,
    integer_from,
    non_negative_int,
    positive_int,
    real_number,
    stage_parser,
    usable_cores,
)
from ecg_finetune.device import PRECISIONS, choose_device, choose_precision
from ecg_finetune.ecg_fm import Architecture, load_architecture
from ecg_finetune.segments import read_manifest, read_pos_weight

# Defaults: as ECG-FM was fine-tuned; and for a random start, which needs a far larger learning rate.
FINETUNING = {"epochs": 100, "lr": 1e-6, "batch_size": 256}
RANDOM_START = {"epochs": 10, "lr": 1e-3, "batch_size": 32}


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = stage_parser(__doc__)
    add_files(parser)
    add_engine(parser)
    add_training(parser)
    add_hardware(parser)
    add_run_folder(parser)
    return parser


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add what says where to read and write."""
    add_path(parser, "--pretrained", "pretrained", "the checkpoint to start from, or `none`: random weights")
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="unpickle whatever --pretrained holds, which can run code in it (default: refuse unusual files)",
    )
    add_lead(parser)
    add_path(parser, "--manifests", "manifests", "the folder with train.tsv, valid.tsv, y.npy and pos_weight.txt")
    add_path(parser, "--output-dir", "finetune", "where checkpoints and logs go; one folder per run")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add what chooses the engine, and what only fairseq-signals takes."""
    parser.add_argument(
        "--engine",
        choices=("auto", "fairseq", "torch"),
        default="auto",
        help="fairseq: run fairseq-hydra-train; torch: the engine of this project; auto: fairseq where "
        "fairseq-hydra-train and a CUDA device are there, else torch (default: auto)",
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
    parser.add_argument("--lr", type=_rate, help="constant learning rate of Adam (default: 1e-06; random start: 1e-03)")
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        help="segments per update, over all GPUs and accumulated parts together (default: 256; random start: 32)",
    )
    parser.add_argument(
        "--patience",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="stop after N epochs without a lower valid loss; 0 = never (default: 0)",
    )
    parser.add_argument("--seed", type=non_negative_int, help="of the new head, the batches and dropout (default: 1)")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="with --pretrained none: a network of 0.1 million parameters (default: ECG-FM's size)",
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
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (CUDA if there is one, else Apple's mps, else cpu), cpu, cuda, cuda:N or mps (default: auto)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="float32, or bf16 for matrix products (weights stay float32); auto: bf16 on a GPU with it (default: auto)",
    )
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="torch.compile the network; auto: on a GPU for runs of 2,000 updates and more (default: auto)",
    )
    parser.add_argument(
        "--workers",
        type=integer_from(1, MOST_PROCESSES),
        metavar="N",
        help="processes that read segments (default: the cores this process may use; fairseq: 6)",
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
        "--resume",
        action="store_true",
        help="go on with the run in --output-dir, to more --epochs if you like, or start one if there is none "
        "(default: go on only if it was interrupted and all settings are the same)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the run in --output-dir and start over (default: refuse)"
    )


def run(args: argparse.Namespace) -> str:
    """Choose the engine and fine-tune."""
    random_start = str(args.pretrained) == "none"
    for name, default in (RANDOM_START if random_start else FINETUNING).items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    engine = args.engine
    if args.print_command and engine == "auto":
        engine = "fairseq"
    elif engine == "auto":
        engine = "fairseq" if not random_start and fairseq_command.can_run() else "torch"
    check_options(args, engine, random_start)
    print(f"engine {engine}: {args.epochs} epochs, learning rate {args.lr:g}, batch size {args.batch_size}", flush=True)
    return run_fairseq(args) if engine == "fairseq" else run_torch(args, random_start)


def check_options(args: argparse.Namespace, engine: str, random_start: bool) -> None:
    """Refuse options that do not go together."""
    fairseq = engine == "fairseq"
    if args.tiny and not random_start:
        raise UserError("--tiny has no pretrained checkpoint; give --pretrained none with it")
    if args.resume and args.overwrite:
        raise UserError("--resume goes on with a run and --overwrite deletes it; give one of them")
    if fairseq and (random_start or args.tiny):
        raise UserError("--pretrained none is for --engine torch; give fairseq-signals a pretrained checkpoint")
    if fairseq and args.resume:
        raise UserError("--resume is for --engine torch; the fairseq-signals command keeps no last checkpoint")
    if not fairseq and (args.print_command or args.overrides):
        raise UserError("--print-command and settings after -- are for --engine fairseq, but the engine is torch")
    if args.accumulate > args.batch_size:
        raise UserError(f"--accumulate {args.accumulate} is more than --batch-size {args.batch_size}; lower it")
    part = args.batch_size / args.accumulate
    if fairseq and (part % 1 or (part > 8 and part % 8)):
        raise UserError(
            f"--batch-size {args.batch_size} with --accumulate {args.accumulate}: fairseq-signals would silently reduce"
            " parts that are no multiple of 8; choose one"
        )


def run_fairseq(args: argparse.Namespace) -> str:
    """Show the fairseq-hydra-train command, and run it unless only that was asked."""
    missing = [] if args.print_command else fairseq_command.missing_pieces(args.fairseq_root, args.pretrained)
    if missing:
        raise UserError(f"--engine fairseq cannot run here: {'; '.join(missing)}; or use --engine torch")
    if args.fairseq_root is None:
        args.fairseq_root = Path("/path/to/fairseq-signals")
        print(f"note: --fairseq-root is missing; {args.fairseq_root} stands for it below", file=sys.stderr)
    for split in ("train", "valid"):
        read_manifest(args.manifests / f"{split}.tsv")
    architecture = Architecture()
    if args.pretrained.is_file():
        architecture = load_architecture(args.pretrained, trust=args.trust_checkpoint, num_labels=1)
    command = fairseq_command.fairseq_command(
        manifests=args.manifests.absolute(),
        pos_weight=read_pos_weight(args.manifests / "pos_weight.txt").tolist(),
        pretrained=args.pretrained.absolute(),
        architecture=architecture,
        fairseq_root=args.fairseq_root.absolute(),
        output=args.output_dir.absolute(),
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch_size,
        accumulate=args.accumulate,
        workers=args.workers or 6,
        seed=args.seed,
        patience=args.patience,
        overrides=args.overrides,
    )
    print(shlex.join(command), flush=True)
    if args.print_command:
        return "the command is shown above, nothing was run"
    return fairseq_command.run_command(command, args.output_dir, args.lead, overwrite=args.overwrite)


def run_torch(args: argparse.Namespace, random_start: bool) -> str:
    """Train with the engine of this project."""
    processes, device = join_processes(choose_device(args.device))
    if not random_start and not args.pretrained.is_file():
        raise UserError(f"{args.pretrained}: no such file; download ECG-FM's checkpoint, or use --pretrained none")
    segments = len(read_manifest(args.manifests / "train.tsv").files)
    updates = args.epochs * math.ceil(segments / args.batch_size)
    try:
        return torch_engine.finetune(
            Settings(
                epochs=args.epochs,
                lr=args.lr,
                batch_size=args.batch_size,
                accumulate=args.accumulate,
                seed=1 if args.seed is None else args.seed,
                patience=args.patience,
                precision=choose_precision(args.precision, device),
                workers=args.workers or usable_cores(),
                save_every=args.save_every,
            ),
            pretrained=None if random_start else args.pretrained,
            tiny=args.tiny,
            trust=args.trust_checkpoint,
            manifests=args.manifests,
            lead=args.lead,
            folder=args.output_dir,
            device=device,
            processes=processes,
            compiled=args.compile == "on" or (args.compile == "auto" and device.type == "cuda" and updates >= 2000),
            resume=args.resume,
            overwrite=args.overwrite,
        )
    finally:
        leave_processes()


def _rate(text: str) -> float:
    value = real_number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def main() -> int:
    """Run the command line; of the processes that torchrun starts, only the first prints."""
    if os.environ.get("RANK", "0") == "0":
        return execute(get_parser(), run)
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())
