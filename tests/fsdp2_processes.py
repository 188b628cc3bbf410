"""One of two processes that share out the weights of every contract's task: fsdp2_processes.py DIRECTORY.

The directory holds a configuration of each case, without dropout, and what one process began of it.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest
import torch
from contract_suite import CONFIGS, Killed, dies_after, freeze_and_noise, only_run
from lightning.pytorch.loops import utilities

from lt_cli.cli import CLI, run
from lt_cli.errors import UserError

CASES: dict[str, tuple[Path, list[str]]] = {
    **{config.stem: (config, freeze_and_noise(config)) for config in CONFIGS},
    "lora": (
        next(config for config in CONFIGS if config.stem == "causal_language_modeling"),
        [
            "--model.backbone=lt_cli.backbones.huggingface.HuggingFaceCausalLM",
            *("--model.backbone.pretrained=gpt2", "--model.backbone.lora.rank=2"),
            *("--model.backbone.vocab_size=258", "--model.backbone.max_seq_len=16", "--data.separate_documents=false"),
            "--model.backbone.architecture={attn_pdrop: 0, embd_pdrop: 0, resid_pdrop: 0}",
        ],
    ),
}
"""By name: a configuration, and what is added to it. A frozen block and noise are among them."""

RESNET = (
    next(config for config in CONFIGS if config.stem == "classification"),
    [
        *("--model.backbone=lt_cli.backbones.resnet.ResNet", "--data.size=[8,8]"),
        *("--model.backbone.widths=[4,8]", "--model.backbone.blocks=[1,1]"),
    ],
)
PROBE = (
    next(config for config in CONFIGS if config.stem == "pixel_classification"),
    ["--model.layer=1", "--model.generative_weight=0"],
)
PIXELS = CASES["pixel_generation"]
MUON = (CASES["causal_language_modeling"][0], ["--model.optimizer=lt_cli.optim.MuonAdamW"])
SGD = (CASES["causal_language_modeling"][0], ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"])

FSDP2 = ["--data.batch_size=8", "--trainer.devices=2", "--trainer.strategy=lt_cli.fsdp2.FSDP2"]
RECOMPUTING = "--trainer.strategy.activation_checkpointing=true"
WHOLE_FILE = "--trainer.strategy.save_distributed_checkpoint=false"
DDP = ["--data.batch_size=8", "--trainer.devices=2", "--trainer.strategy=ddp"]


def arguments(case: tuple[Path, list[str]], directory: str) -> list[str]:
    """Fits a case into a directory; texts, which each process would write alone, are left out."""
    config, more = case
    writes = config.stem in ("text_generation", "video_dialogue")
    silent = ["--model.generate_in_validation=false"] if writes else []
    return [
        *("fit", f"--config={config.name}", f"--trainer.default_root_dir={directory}", *silent, *more),
        *("--checkpoints.keep=-1", "--trainer.limit_val_batches=1", "--trainer.gradient_clip_val=0.5"),
    ]


def last(directory: str, case: tuple[Path, list[str]]) -> Path:
    """The last checkpoint of the only run of a case."""
    return only_run(case[0].stem, directory) / "checkpoints" / "last.ckpt"


def rewind(case: tuple[Path, list[str]], directory: str, copy: str) -> None:
    """Copies a run as a kill after the first of its two epochs would have left it; called on all processes."""
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        shutil.copytree(directory, copy, symlinks=True)
        end = last(copy, case)
        end.unlink()
        begun = end.with_name("step-0000004.ckpt")
        os.link(begun, end, follow_symlinks=False)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def go_on(case: tuple[Path, list[str]], directory: str, *more: str) -> CLI:
    """The steps that are left."""
    return run([*arguments(case, directory), *more, "--ckpt_path=last"])


def scores(cli: CLI) -> dict[str, float]:
    """What the last evaluation said."""
    return {name: value.item() for name, value in cli.trainer.callback_metrics.items() if "train" not in name}


def every_case() -> dict[str, dict[str, float]]:
    """Leaves whole and resumed runs, one that another process began, and one to finish."""
    said = {}
    for name, case in CASES.items():
        said[name] = scores(run([*arguments(case, f"{name}/whole"), *FSDP2, RECOMPUTING]))
        rewind(case, f"{name}/whole", f"{name}/resumed")
        rewind(case, f"{name}/whole", f"{name}/to_finish")
        go_on(case, f"{name}/resumed", *FSDP2, RECOMPUTING)
        go_on(case, f"{name}/begun", *FSDP2)
    return said


def evaluations() -> dict[str, dict[str, float]]:
    """Of shards and of a file by two processes; and a run whose checkpoints are whole files."""
    case, said = CASES["sequence_classification"], {}
    few = ["--trainer.accelerator=cpu", "--trainer.limit_test_batches=1"]
    for name in ("whole", "one"):
        path = last(f"sequence_classification/{name}", case)
        said[name] = scores(run(["test", f"--ckpt_path={path}", *few, *FSDP2]))
    run([*arguments(case, "file/whole"), *FSDP2, WHOLE_FILE])
    for copy in ("resumed", "to_finish"):
        rewind(case, "file/whole", f"file/{copy}")
    go_on(case, "file/resumed", *FSDP2, WHOLE_FILE)
    return said


def norms_blocks_and_matrices() -> dict[str, dict[str, float]]:
    """Batch norms as ``ddp`` has them; a block without gradients; optimisers of whole matrices, and without state."""
    said = {"ddp": scores(run([*arguments(RESNET, "norms/ddp"), *DDP]))}
    run([*arguments(MUON, "muon/ddp"), *DDP])
    for name, case in (("norms", RESNET), ("unused", PROBE), ("muon", MUON), ("sgd", SGD)):
        said[name] = scores(run([*arguments(case, f"{name}/whole"), *FSDP2, RECOMPUTING]))
        rewind(case, f"{name}/whole", f"{name}/resumed")
        go_on(case, f"{name}/resumed", *FSDP2, RECOMPUTING)
    return said


def changes_of_mind() -> dict[str, float]:
    """A schedule where there was none; and a run that was killed between its last step and the validation of it."""
    case = CASES["causal_language_modeling"]
    run([*arguments(case, "constant"), *FSDP2, "--model.schedule=null", "--trainer.max_epochs=1"])
    go_on(case, "constant", *FSDP2)
    late = [*arguments(PIXELS, "late"), *FSDP2, "--trainer.max_epochs=-1", "--trainer.max_steps=2"]
    late += ["--trainer.val_check_interval=4", "--checkpoints.every_minutes=0", "--model.schedule.warmup_steps=0"]
    with pytest.raises(Killed), dies_after(2):
        run(late)
    return scores(run([*late, "--ckpt_path=last"]))


def half_precision() -> dict[str, dict[str, float]]:
    """Mixed as with ``ddp``, and nothing but bfloat16."""
    case = CASES["causal_language_modeling"]
    said = {"ddp": scores(run([*arguments(case, "mixed/ddp"), *DDP, "--trainer.precision=bf16-mixed"]))}
    for name, precision in (("mixed", "bf16-mixed"), ("true", "bf16-true")):
        said[name] = scores(run([*arguments(case, f"{name}/fsdp2"), *FSDP2, f"--trainer.precision={precision}"]))
    return said


@contextmanager
def as_on_gpus() -> Iterator[None]:
    """Lightning then evaluates in inference mode, which with gloo it does not."""

    class Distributed:
        get_backend = staticmethod(lambda: "nccl")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilities, "dist", Distributed)
        yield


def refusals() -> dict[str, str]:
    """What is said of checkpoints that do not fit."""
    case, said = CASES["causal_language_modeling"], {}

    def note(name: str, attempt: Callable[[], Any]) -> None:
        try:
            attempt()
        except UserError as error:
            said[name] = str(error)

    for kind in ("whole", "one"):
        path = last(f"causal_language_modeling/{kind}", case)
        again = [*arguments(case, "refused"), f"--ckpt_path={path}", *FSDP2]
        note(f"{kind} layers", lambda again=again: run([*again, "--model.backbone.num_layers=3"]))
        note(f"{kind} fewer layers", lambda again=again: run([*again, "--model.backbone.num_layers=1"]))
        note(f"{kind} width", lambda again=again: run([*again, "--model.backbone.embed_dim=16"]))
    decayed, path = (
        CASES["sequence_classification"],
        last("sequence_classification/whole", CASES["sequence_classification"]),
    )
    note(
        "groups",
        lambda: run([*arguments(decayed, "refused"), f"--ckpt_path={path}", *FSDP2, "--model.layer_decay=0.9"]),
    )
    return said


def main(root: Path) -> None:
    """Leaves runs and what was said under the directory."""
    os.chdir(root)
    said: dict[str, Any] = {"cases": every_case(), "evaluations": evaluations(), "norms": norms_blocks_and_matrices()}
    said["precision"], said["late"] = half_precision(), changes_of_mind()
    with as_on_gpus():
        said["gpus"] = scores(run([*arguments(CASES["pixel_generation"], "gpus"), *FSDP2]))
    said["refusals"] = refusals()
    if torch.distributed.get_rank() == 0:
        Path("said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # several groups were opened, and gloo's threads may abort the interpreter while it closes
