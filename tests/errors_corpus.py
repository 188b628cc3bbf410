"""Wrong invocations, configurations and files, each with what the program says of it; test_errors.py tries them all.

A new option, file or task adds its rows to the table it belongs to; a table of its own goes into ``CORPUS``.
"""

import itertools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from contract_suite import GOLDEN, ROOT
from PIL import Image

TASKS = {name: ROOT / "tests" / "contract" / f"{name}.yaml" for name in ("pixel_generation", "pixel_classification")}
CHECKPOINTS = {name: GOLDEN / f"{name}.ckpt" for name in TASKS}
SHORT = ["--trainer.max_steps=2", "--model.schedule.warmup_steps=0"]
EVALUATORS = ("validate", "test", "predict")
FIT = {name: ["fit", f"--config={config}", *SHORT] for name, config in TASKS.items()}


@dataclass(frozen=True)
class Wrong:
    """A wrong command line.

    Attributes:
        args: From the subcommand on.
        says: The whole message, or its beginning where it ends in ``…``, as what follows is another library's.
        code: 2 for what the user asked, 1 for what happened to the run.
        before: Makes the files that it names, in the working directory.
    """

    args: list[str]
    says: str
    code: int = 2
    before: Callable[[], object] | None = None

    def __str__(self) -> str:
        """What is wrong, as a test's name."""
        return " ".join(self.args[-2:]).replace(str(ROOT), "")

    @property
    def parser_finds_it(self) -> bool:
        """Whether the message is of an option, so that nothing needs to be built or read."""
        return self.says.startswith(("--", "there is no option", "argument --", "the first argument"))


GENERATION = {
    "--model.backbone.init_args.num_layer=8": "--model.backbone: GPT has no option num_layer; did you mean num_layers?",
    "--model.backbone.num_layer=8": "--model.backbone: GPT has no option num_layer; did you mean num_layers?",
    "--model.completions=3": "--model: PixelGeneration has no option completions; did you mean num_completions?",
    "--model.completions={}": "--model: PixelGeneration has no option completions; did you mean num_completions?",
    "--model.backbone.lora={}": "--model.backbone: GPT has no option lora",
    "--model.sampling.temprature={}": (
        "there is no option --model.sampling.temprature={}; did you mean --model.sampling.temperature?"
    ),
    "--model.sampling.temprature=1": (
        "there is no option --model.sampling.temprature=1; did you mean --model.sampling.temperature?"
    ),
    "--model.optimizer.weight=1": "--model.optimizer: AdamW has no option weight; did you mean weight_decay?",
    "--model.schedule.warmup=1": "--model.schedule: WarmupCosine has no option warmup; did you mean warmup_steps?",
    "--data.batch=3": "--data: PixelData has no option batch; did you mean batch_size?",
    "--data.palette.colors=3": "--data.palette: GreyLevels has no option colors; did you mean num_colors?",
    "--traner.max_steps=3": "there is no option --traner.max_steps=3; did you mean --trainer.max_steps?",
    "--weight_noise.mod=transient": "--weight_noise: WeightNoise has no option mod; did you mean mode?",
    "--freeze.module=backbone": "--freeze: Freeze has no option module; did you mean modules?",
    "--checkpoints.minutes=1": "there is no option --checkpoints.minutes=1; did you mean --checkpoints.every_minutes?",
    "--weights_only=false": "there is no option --weights_only=false; did you mean --weight_noise?",
    "stray": "there is no option stray",
    "--trainer.max_epoch=3": "there is no option --trainer.max_epoch=3; did you mean --trainer.max_epochs?",
    "--ckpt=best": "there is no option --ckpt=best; did you mean --ckpt_path?",
    "--seed=1": "there is no option --seed=1; did you mean --seed_everything?",
    "--model.sampling.temp=1": "there is no option --model.sampling.temp=1; did you mean --model.sampling.temperature?",
    "--model.backbone.num_l=1": "--model.backbone: GPT has no option num_l; did you mean num_layers?",
    "--model.backbone.num_layers=eight": "--model.backbone.num_layers: expected int, got eight",
    "--model.init_args.backbone.init_args.dropout=much": "--model.backbone.dropout: expected float, got much",
    "--trainer.max_steps=many": "--trainer.max_steps: expected int, got many",
    "--trainer.max_steps": "argument --trainer.max_steps: expected one argument",
    "--model.optimizer.lr=fast": "--model.optimizer.lr: expected float, got fast",
    "--model.sampling.temperature=hot": "--model.sampling.temperature: expected float, got hot",
    "--data.size=[8,a]": "--data.size: expected int, got a",
    "--freeze.thaw=3": "--freeze.thaw: expected dict, got 3",
    "--seed_everything=x": "--seed_everything: expected bool or int, got x",
    "--model.backbone.activation=relu": (
        "--model.backbone.activation: expected one of 'quick_gelu', 'gelu_tanh', 'gelu', got relu"
    ),
    "--weight_noise.mode=sometimes": "--weight_noise.mode: expected one of 'transient', 'permanent', got sometimes",
    "--predictions.format=xml": "--predictions.format: expected one of 'csv', 'jsonl', got xml",
    "--model=PixelGeneratio": (
        "--model: PixelGeneratio is no class known here; did you mean lt_cli.tasks.pixel_generation.PixelGeneration?"
    ),
    "--model=nowhere.Task": "--model: No module named 'nowhere'; did you mean lt_cli.tasks.base.Task?",
    "--model=torch.nn.Linear": "--model: torch.nn.Linear is no Task",
    "--model.backbone=lt_cli.backbones.gpt.GTP": (
        "--model.backbone: there is no GTP in lt_cli.backbones.gpt; did you mean GPT?"
    ),
    "--model.backbone=lt_cli.backbone.gpt.GPT": (
        "--model.backbone: there is no backbone in lt_cli; did you mean backbones?"
    ),
    "--model.backbone=torch.nn.Linear": "--model.backbone: torch.nn.Linear is no CausalBackbone",
    "--model.optimizer=torch.optim.AdamX": "--model.optimizer: there is no AdamX in torch.optim; did you mean Adam?",
    "--model.optimizer=torch.nn.Linear": "--model.optimizer: torch.nn.Linear is no Optimizer and returns none",
    "--data=lt_cli.backbones.gpt.GPT": "--data: lt_cli.backbones.gpt.GPT is no LightningDataModule",
    "--model.backbone=lt_cli.reuse.causal_backbone": "--model.backbone.path must be given",
    "--weight_noise={}": "--weight_noise.std must be given",
    "--model.backbone.num_heads=3": "embed_dim (8) must be divisible by num_heads (3)",
    "--data.batch_size=0": "batch_size (0) must be at least 1",
    "--data.palette.num_colors=700": "num_colors (700) must be from 2 to 256",
    "--data.palette.num_colors=7": (
        "the data has 7 tokens, the backbone a vocabulary of 5: add --model.backbone.init_args.vocab_size=7"
    ),
    "--data.size=[8,8]": (
        "the data has sequences of 64 tokens, the backbone takes 16: add --model.backbone.init_args.max_seq_len=64"
    ),
    "--model.backbone.grid_width=3": (
        "the data has pictures 4 wide, the backbone a grid of 3: add --model.backbone.init_args.grid_width=4"
    ),
    "--model.schedule.warmup_steps=2": (
        "warmup_steps (2) must be at least 0 and less than the run's 2 optimiser steps: set "
        "--model.schedule.warmup_steps=0 or train longer"
    ),
    "--freeze.modules=nothing_like_this": (
        "freeze.modules: 'nothing_like_this' matches no module or parameter of PixelGeneration: did you mean "
        "'backbone' or 'metrics'?"
    ),
    "--freeze.modules=backbone.bloks": (
        "freeze.modules: 'backbone.bloks' matches no module or parameter of PixelGeneration: did you mean "
        "'backbone.blocks' or 'backbone.blocks.1' or 'backbone.blocks.0'?"
    ),
    "--trainer.accelerator=abacus": "--trainer.accelerator=abacus --trainer.devices=auto --trainer.strategy=auto:…",
    "--trainer.devices=-3": "--trainer.accelerator=cpu --trainer.devices=-3 --trainer.strategy=auto:…",
    "--trainer.strategy=magic": "--trainer.accelerator=cpu --trainer.devices=auto --trainer.strategy=magic:…",
    "--model.backbone=GTP": "--model.backbone: GTP is no class known here; did you mean lt_cli.backbones.gpt.GPT?",
    "--model.backbone=lt_cli.backbnes.gpt.GPT": (
        "--model.backbone: there is no backbnes in lt_cli; did you mean backbones?"
    ),
    "--model.backbone=lt_clii.backbones.gpt.GPT": (
        "--model.backbone: No module named 'lt_clii'; did you mean lt_cli.backbones.gpt.GPT?"
    ),
    "--model.backbone=gpt.GPT": "--model.backbone: No module named 'gpt'; did you mean lt_cli.backbones.gpt.GPT?",
    "--model.backbone=HugingFaceCausalLM": (
        "--model.backbone: HugingFaceCausalLM is no class known here; did you mean "
        "lt_cli.backbones.huggingface.HuggingFaceCausalLM?"
    ),
    "--model=PixelClasification": (
        "--model: PixelClasification is no class known here; did you mean "
        "lt_cli.tasks.pixel_classification.PixelClassification?"
    ),
    "--model=lt_cli.tasks.pixel_generaton.PixelGeneration": (
        "--model: there is no pixel_generaton in lt_cli.tasks; did you mean pixel_generation?"
    ),
    "--data=PixelDta": "--data: PixelDta is no class known here; did you mean lt_cli.data.pixels.PixelData?",
    "--data=lt_cli.data.pixel.PixelData": "--data: there is no pixel in lt_cli.data; did you mean pixels?",
    "--data=lt_cli.data.pixels.PixlData": "--data: there is no PixlData in lt_cli.data.pixels; did you mean PixelData?",
    "--data.source=Digit": "--data.source: Digit is no class known here; did you mean lt_cli.data.images.Digits?",
    "--data.source=FolderImage": (
        "--data.source: FolderImage is no class known here; did you mean lt_cli.data.images.FolderImages?"
    ),
    "--data.source=lt_cli.data.images.Digts": (
        "--data.source: there is no Digts in lt_cli.data.images; did you mean Digits?"
    ),
    "--data.source=lt_cli.data.image.Digits": "--data.source: there is no image in lt_cli.data; did you mean images?",
    "--data.palette=GreyLevel": (
        "--data.palette: GreyLevel is no class known here; did you mean lt_cli.data.palette.GreyLevels?"
    ),
    "--data.palette=KMeanPalette": (
        "--data.palette: KMeanPalette is no class known here; did you mean lt_cli.data.palette.KMeansPalette?"
    ),
    "--data.palette=lt_cli.data.palette.GrayLevels": (
        "--data.palette: there is no GrayLevels in lt_cli.data.palette; did you mean GreyLevels?"
    ),
    "--data.palette=lt_cli.data.palettes.GreyLevels": (
        "--data.palette: there is no palettes in lt_cli.data; did you mean palette?"
    ),
    "--data.palette=lt_cli.data.images.Digits": "--data.palette: lt_cli.data.images.Digits is no Palette",
    "--data.source=lt_cli.data.palette.GreyLevels": "--data.source: lt_cli.data.palette.GreyLevels is no ImageSource",
    "--model.optimizer=AdamX": "--model.optimizer: AdamX is no class known here; did you mean torch.optim.Adam?",
    "--model.optimizer=AdmW": "--model.optimizer: AdmW is no class known here; did you mean torch.optim.AdamW?",
    "--model.optimizer=torch.optim.AdmW": "--model.optimizer: there is no AdmW in torch.optim; did you mean AdamW?",
    "--model.optimizer=torch.optm.AdamW": "--model.optimizer: there is no optm in torch; did you mean optim?",
    "--model.schedule=WarmupCosin": (
        "--model.schedule: WarmupCosin is no class known here; did you mean lt_cli.optim.WarmupCosine?"
    ),
    "--model.schedule=lt_cli.optim.WarmupCosin": (
        "--model.schedule: there is no WarmupCosin in lt_cli.optim; did you mean WarmupCosine?"
    ),
    "--model.schedule=lt_cli.optm.WarmupCosine": "--model.schedule: there is no optm in lt_cli; did you mean optim?",
    "--model.schedule=torch.optim.lr_scheduler.StepLR": "--model.schedule: StepLR has no option warmup_steps",
    "--model.schedule=torch.optim.lr_scheduler.CosineAnnealing": (
        "--model.schedule: there is no CosineAnnealing in torch.optim.lr_scheduler; did you mean CosineAnnealingLR?"
    ),
    "--model.backbone=3": "--model.backbone: expected a class, by its full dotted path, and its options, got 3",
    "--model.backbone=[1]": "--model.backbone: expected a class, by its full dotted path, and its options, got [1]",
    "--model=null": "--model: expected a class, by its full dotted path, and its options, got null",
    "--data=": "--data: expected a class, by its full dotted path, and its options, got nothing",
    "--model=": "--model: expected a class, by its full dotted path, and its options, got nothing",
    "--data.source=null": "--data.source must be given",
    "--trainer.callbacks+=ModelSumary": (
        "--trainer.callbacks: ModelSumary is no class known here; did you mean "
        "lightning.pytorch.callbacks.ModelSummary?"
    ),
    "--trainer.callbacks+=lightning.pytorch.callbacks.ModelSumary": (
        "--trainer.callbacks: there is no ModelSumary in lightning.pytorch.callbacks; did you mean ModelSummary?"
    ),
    "--trainer.callbacks+=torch.nn.Linear": "--trainer.callbacks: torch.nn.Linear is no Callback",
    "--trainer.callbacks+=lt_cli.callbacks.freze.Freeze": (
        "--trainer.callbacks: there is no freze in lt_cli.callbacks; did you mean freeze?"
    ),
    "--trainer.callbacks=3": "--trainer.callbacks: expected list, got 3",
    "--trainer.logger=TensorBoardLoger": (
        "--trainer.logger: TensorBoardLoger is no class known here; did you mean "
        "lightning.pytorch.loggers.TensorBoardLogger?"
    ),
    "--trainer.logger=lightning.pytorch.loggers.CSVLoger": (
        "--trainer.logger: there is no CSVLoger in lightning.pytorch.loggers; did you mean CSVLogger?"
    ),
    "--trainer.profiler=magic": "--trainer.profiler=magic:…",
    "--weight_noise=0.1": "--weight_noise: expected a class, by its full dotted path, and its options, got 0.1",
    "--weight_noise.std=-1": "weight_noise.std (-1.0) must be above 0 and finite",
    "--weight_noise.std=nan": "--weight_noise.std: expected float, got nan",
    "--weight_noise.std=inf": "--weight_noise.std: expected float, got inf",
    "--weight_noise=lt_cli.callbacks.freeze.Freeze": "--weight_noise: lt_cli.callbacks.freeze.Freeze is no WeightNoise",
    "--weight_noise.modules=head": "--weight_noise.std must be given",
    "--freeze.modules=[]": "freeze.modules must name at least one of 'backbone' or 'metrics'",
    "--freeze.modules=backbone": "freeze.modules (backbone) leaves nothing to train in epoch 0: freeze less",
    "--freeze.modules=*": "freeze.modules (*) leaves nothing to train in epoch 0: freeze less",
    "--freeze={}": "--freeze.modules must be given",
    "--freeze.thaw={}": "--freeze.modules must be given",
    "--sample_images.num_samples=0": "num_samples (0) must be at least 1",
    "--sample_images.every_n_epochs=-1": "every_n_epochs (-1) must be at least 1",
    "--sample_images.num_column=2": "--sample_images: SampleImages has no option num_column; did you mean num_columns?",
    "--sample_images.num_samples=many": "--sample_images.num_samples: expected int, got many",
    "--checkpoints.every_minutes=-1": "every_minutes (-1.0) must not be negative",
    "--checkpoints.every_minutes=often": "--checkpoints.every_minutes: expected float, got often",
    "--checkpoints=null": "--checkpoints: expected options and values, got null",
    "--checkpoints=3": "--checkpoints: expected options and values, got 3",
    "--predictions.format=parquet": "--predictions.format: expected one of 'csv', 'jsonl', got parquet",
    "--predictions.dir=x": "there is no option --predictions.dir=x; did you mean --predictions.directory?",
    "--predictions=csv": "--predictions: expected options and values, got csv",
    "--trainer.limit_val_batches=nonsense": "--trainer.limit_val_batches: expected int or float, got nonsense",
    "--trainer.limit_train_batches=-1": "--trainer.limit_train_batches=-1:…",
    "--trainer.limit_train_batches=2.5": "--trainer.limit_train_batches=2.5:…",
    "--trainer.max_steps=-5": "--trainer.max_steps=-5:…",
    "--trainer.max_epochs=-5": "--trainer.max_epochs=-5:…",
    "--trainer.max_time=soon": "--trainer.max_time=soon:…",
    "--trainer.accumulate_grad_batches=0": "--trainer.accumulate_grad_batches (0) must be above 0",
    "--trainer.accumulate_grad_batches=-1": "--trainer.accumulate_grad_batches (-1) must be above 0",
    "--trainer.gradient_clip_val=much": "--trainer.gradient_clip_val: expected int or float, got much",
    "--trainer.gradient_clip_algorithm=magic": "--trainer.gradient_clip_algorithm=magic:…",
    "--trainer.val_check_interval=0": "--trainer.val_check_interval (0) must be above 0",
    "--trainer.val_check_interval=2.5": "--trainer.val_check_interval=2.5:…",
    "--trainer.val_check_interval=1000": "`val_check_interval` (1000) …",
    "--trainer.check_val_every_n_epoch=0": "--trainer.check_val_every_n_epoch (0) must be above 0",
    "--trainer.num_nodes=0": "--trainer.num_nodes=0:…",
    "--trainer.devices=0": "--trainer.accelerator=cpu --trainer.devices=0 --trainer.strategy=auto:…",
    "--trainer.devices=three": "--trainer.accelerator=cpu --trainer.devices=three --trainer.strategy=auto:…",
    "--trainer.strategy=dpp": "--trainer.accelerator=cpu --trainer.devices=auto --trainer.strategy=dpp:…",
    "--trainer.overfit_batches=-1": "--trainer.overfit_batches=-1:…",
    "--trainer.fast_dev_run=-1": "--trainer.fast_dev_run=-1:…",
    "--trainer.reload_dataloaders_every_n_epochs=-1": "--trainer.reload_dataloaders_every_n_epochs=-1:…",
    "--trainer.detect_anomaly=maybe": "--trainer.detect_anomaly: expected bool, got maybe",
    "--seed_everything=-1": "--seed_everything: -1 is not in bounds…",
    "--seed_everything=1.5": "--seed_everything: expected bool or int, got 1.5",
    "--data.batch_size=-3": "batch_size (-3) must be at least 1",
    "--data.batch_size=1.5": "--data.batch_size: expected int, got 1.5",
    "--data.batch_size=huge": "--data.batch_size: expected int, got huge",
    "--data.num_workers=-1": "num_workers (-1) must not be negative",
    "--data.num_workers=few": "--data.num_workers: expected int, got few",
    "--data.val_fraction=0": "val_fraction (0.0) must be above 0 and below 1",
    "--data.val_fraction=0.0000001": (
        "val_fraction (1e-07) of 1437 pictures leaves a split empty: set --data.val_fraction or give more pictures"
    ),
    "--data.val_fraction=nan": "--data.val_fraction: expected float, got nan",
    "--data.val_fraction=half": "--data.val_fraction: expected float, got half",
    "--data.channels=2": "--data.channels: expected one of 1, 3, got 2",
    "--data.channels=3": "GreyLevels needs pictures of 1 channel, these have 3: use KMeansPalette",
    "--data.size=[0,4]": "size (0, 4) must be a height and a width of at least 1 pixel",
    "--data.size=[4]": "--data.size: expected 2 values, got [4]",
    "--data.size=4x4": "--data.size: expected tuple, got 4x4",
    "--data.crop_padding=-1": "crop_padding (-1) must not be negative",
    "--data.crop_padding=4": "crop_padding (4) must be less than the pictures' side (4)",
    "--data.flip=maybe": "--data.flip: expected bool, got maybe",
    "--data.split_seed=-1": "split_seed (-1) must not be negative",
    "--data.split_seed=x": "--data.split_seed: expected int, got x",
    "--data.palette.num_colors=1": "num_colors (1) must be from 2 to 256",
    "--data.palette.num_colors=x": "--data.palette.num_colors: expected int, got x",
    "--model.num_completions=0": "num_completions (0) must be at least 1",
    "--model.keep_rows=-1": "keep_rows (-1) must not be negative",
    "--model.keep_rows=half": "--model.keep_rows: expected int, got half",
    "--model.sampling.temperature=-1": "temperature (-1.0) must not be negative",
    "--model.sampling.temperature=nan": "--model.sampling.temperature: expected float, got nan",
    "--model.sampling.top_k=0": "top_k (0) must be at least 1",
    "--model.sampling.top_p=2": "top_p (2.0) must be above 0 and at most 1",
    "--model.sampling.seed=x": "--model.sampling.seed: expected int, got x",
    "--model.sampling=3": "--model.sampling: expected options and values, got 3",
    "--model.backbone.num_layers=0": "num_layers (0) must be at least 1",
    "--model.backbone.grid_width=0": "grid_width (0) must be at least 1",
    "--model.backbone.rotary=perhaps": "--model.backbone.rotary: expected bool, got perhaps",
    "--model.backbone.dropout=1": "dropout (1.0) must be at least 0 and less than 1",
    "--model.backbone.dropout=-0.1": "dropout (-0.1) must be at least 0 and less than 1",
    "--model.backbone.dropout=nan": "--model.backbone.dropout: expected float, got nan",
    "--model.backbone.vocab_size=0": "vocab_size (0) must be at least 1",
    "--model.backbone.max_seq_len=-3": "max_seq_len (-3) must be at least 1",
    "--model.backbone.norm=batchnorm": "--model.backbone.norm: expected one of 'rmsnorm', 'layernorm', got batchnorm",
    "--model.backbone.bias=perhaps": "--model.backbone.bias: expected bool, got perhaps",
    "--model.backbone.start_token=false": (
        "pixels are predicted from the first one on, and the backbone has no start token: add "
        "--model.backbone.init_args.start_token=true"
    ),
    "--model.backbone.embed_dim=100000000000000000000": "GPT: …",
    "--model.backbone.num_layers=null": "--model.backbone.num_layers: expected int, got null",
    "--model.sampling=null": "--model.sampling: expected Sampling, got null",
    "--model.sampling.temperature=null": "--model.sampling.temperature: expected float, got null",
    "--data.batch_size=null": "--data.batch_size: expected int, got null",
    "--model.optimizer.lr=-1": "--model.optimizer: …",
    "--model.optimizer.betas=[0.9]": "--model.optimizer.betas: expected 2 values, got [0.9]",
    "--model.optimizer.betas=[2,2]": "--model.optimizer: …",
    "--model.optimizer.betas=fast": "--model.optimizer.betas: expected tuple, got fast",
    "--model.optimizer.momentum=1": "--model.optimizer: AdamW has no option momentum",
    "--model.schedule.final_ratio=2": "final_ratio (2.0) must be between 0 and 1",
    "--model.schedule.warmup_steps=-1": (
        "warmup_steps (-1) must be at least 0 and less than the run's 2 optimiser steps: set "
        "--model.schedule.warmup_steps=0 or train longer"
    ),
    "--model.schedule.warmup_steps=x": "--model.schedule.warmup_steps: expected int, got x",
    "--model.layer=3": "--model: PixelGeneration has no option layer",
    "--ckpt_path=": "--ckpt_path needs best, last, a file or a directory",
    "--ckpt_path=gone.ckpt": "there is no checkpoint gone.ckpt",
    "-x": "there is no option -x",
    "---model=3": "there is no option ---model=3; did you mean --model?",
    "--trainer.val_check_interval=often": "--trainer.val_check_interval=often:…",
    "--nowhere.thing=1": "there is no option --nowhere.thing=1",
}
"""Of a fit that generates pixels."""

CLASSIFICATION = {
    "--model.layer=3": "layer (3) must be between 0 and the backbone's num_layers (2)",
    "--model.layer=-1": "layer (-1) must be between 0 and the backbone's num_layers (2)",
    "--model.layer=middle": "--model.layer: expected int, got middle",
    "--model.generative_weight=-1": "generative_weight (-1.0) must not be negative",
    "--model.generative_weight=heavy": "--model.generative_weight: expected float, got heavy",
    "--model.metrics=accuracy": "--model.metrics: expected dict, got accuracy",
    "--model.metrics=3": "--model.metrics: expected dict, got 3",
    "--model.metrics={acc: lt_cli.metrics.acuracy}": (
        "--model.metrics: there is no acuracy in lt_cli.metrics; did you mean accuracy?"
    ),
    "--model.metrics={acc: torchmetrics.classification.MulticlassAcuracy}": (
        "--model.metrics: there is no MulticlassAcuracy in torchmetrics.classification; did you mean "
        "MulticlassAccuracy?"
    ),
    "--model.metrics={acc: lt_cli.metrik.accuracy}": (
        "--model.metrics: there is no metrik in lt_cli; did you mean metrics?"
    ),
    "--model.metrics={acc: 3}": "--model.metrics: expected a class, by its full dotted path, and its options, got 3",
    "--model.metrics={acc: torch.nn.Linear}": "--model.metrics: torch.nn.Linear is no Metric and returns none",
    "--model.metrics={acc: torchmetrics.MeanMetric}": "--model.metrics: …",
    "--model.metrics={acc: null}": (
        "--model.metrics: expected a class, by its full dotted path, and its options, got null"
    ),
    "--model.metric=3": "--model: PixelClassification has no option metric; did you mean metrics?",
    "--model.keep_rows=3": "--model: PixelClassification has no option keep_rows",
    "--model.sampling.temperature=1": "there is no option --model.sampling.temperature=1",
    "--model.num_completions=2": "--model: PixelClassification has no option num_completions",
    "--model.backbone=lt_cli.reuse.causal_backbon": (
        "--model.backbone: there is no causal_backbon in lt_cli.reuse; did you mean causal_backbone?"
    ),
    "--model.backbone=lt_cli.backbones.huggingface.HuggingFaceCausalLM": (
        "pretrained and architecture are both None, at least one is required: add "
        "--model.backbone.init_args.pretrained=NAME or --model.backbone.init_args.architecture.model_type=TYPE; in "
        "VideoText, --model.backbone.init_args.text.init_args.pretrained=NAME"
    ),
    "--model.backbone=lt_cli.reuse.causal_backbone": "--model.backbone.path must be given",
    "--model.backbone.start_token=false": (
        "the backbone has no start token: add --model.backbone.init_args.start_token=true"
    ),
    "--model.backbone.vocab_size=6": (
        "the data has 5 tokens, the backbone a vocabulary of 6: add --model.backbone.init_args.vocab_size=5"
    ),
    "--sample_images={}": "sample_images needs a task that draws pictures; PixelClassification does not",
    "--sample_images.num_samples=1": "sample_images needs a task that draws pictures; PixelClassification does not",
    "--freeze.modules=hed": (
        "freeze.modules: 'hed' matches no module or parameter of PixelClassification: did you mean 'head'?"
    ),
    "--freeze.modules=[backbone,hed]": (
        "freeze.modules: 'hed' matches no module or parameter of PixelClassification: did you mean 'head'?"
    ),
    "--weight_noise.std=0.1 --weight_noise.modules=hed": (
        "weight_noise.modules: 'hed' matches no module or parameter of PixelClassification: did you mean 'head'?"
    ),
    "--freeze.modules=backbone --freeze.thaw={x:head}": "--freeze.thaw: expected dict, got {x:head}",
    "--model.optimizer=torch.optim.SDG": "--model.optimizer: there is no SDG in torch.optim; did you mean SGD?",
    "--model.optimizer=torch.optim.LBFGS": "--model.optimizer: …",
    "--model.optimizer=torch.optim.SparseAdam": (
        "SparseAdam does not support dense gradients, please consider Adam instead"
    ),
    "--model.schedule=lt_cli.metrics.accuracy": (
        "--model.schedule: lt_cli.metrics.accuracy is no LRScheduler and returns none"
    ),
    "--model.optimizer.lr=.nan": "--model.optimizer: …",
    "--model.optimizer.weight_decay=-1": "--model.optimizer: …",
    "--data=lt_cli.data.base.DataModule": (
        "--data: lt_cli.data.base.DataModule is abstract: give a class that derives from it"
    ),
    "--data.source=lt_cli.data.images.ImageSource": (
        "--data.source: lt_cli.data.images.ImageSource is abstract: give a class that derives from it"
    ),
    "--data.palette=lt_cli.data.palette.Palette": (
        "--data.palette: lt_cli.data.palette.Palette is abstract: give a class that derives from it"
    ),
    "--data.palette=lt_cli.data.palette.PaletteFile": "--data.palette.path must be given",
    "--data.source=TorchvisionImages": "--data.source.name must be given",
    "--data.source=TorchvisionImages --data.source.name=CIFR10 --data.source.download=false": (
        "name (CIFR10) must be a class of torchvision.datasets with train and test: CIFAR10 or CIFAR100 or Flowers102"
    ),
    "--data.source=TorchvisionImages --data.source.name=CIFAR10 --data.source.download=false": (
        "CIFAR10 (train) could not be read from data: …"
    ),
    "--data.source=TorchvisionImages --data.source.name=MNIST --data.source.download=false": (
        "MNIST (train) could not be read from data: …"
    ),
    "--data.source=TorchvisionImages --data.source.nam=MNIST": (
        "--data.source: TorchvisionImages has no option nam; did you mean name?"
    ),
    "--data.source=FolderImages": "--data.source.root must be given",
    "--data.source=FolderImages --data.source.rot=x": (
        "--data.source: FolderImages has no option rot; did you mean root?"
    ),
    "--data.source=FolderImages --data.source.root=gone": "root (gone) must be a folder of pictures; there is none",
    "--data.source=HuggingFaceImages --data.source.path=gone": (
        "path (gone), config_name (None), split (None) could not be loaded: …"
    ),
    "--data.source=HuggingFaceImages": "--data.source.path must be given",
    "--data.palette=PaletteFile --data.palette.path=gone.npy": (
        "palette file gone.npy does not exist: set path to a .npy file"
    ),
    "--data.palette=KMeansPalette --data.palette.num_colors=500": (
        "num_colors (500) must be at most 255: there are no more colours"
    ),
    "--data.palette=KMeansPalette --data.palette.num_colors=0": "num_colors (0) must be from 1 to 32768",
    "--data.palette=KMeansPalette --data.palette.seed=-1": "seed (-1) must be from 0 to 4294967295",
    "--data.palette=KMeansPalette --data.palette.num_colors=5 --data.palette.seed=-1": (
        "seed (-1) must be from 0 to 4294967295"
    ),
    "--data.palette=lt_cli.reuse.CheckpointPalette": "--data.palette.path must be given",
    "--data.palette=lt_cli.reuse.CheckpointPalette --data.palette.path=gone.ckpt": "there is no checkpoint gone.ckpt",
    "--data.palette=lt_cli.reuse.CheckpointPalette --data.palette.path=.": "there is no checkpoint under .",
    "--model.backbone=lt_cli.reuse.causal_backbone --model.backbone.path=gone.ckpt": "there is no checkpoint gone.ckpt",
    "--model.backbone=lt_cli.reuse.causal_backbone --model.backbone.path=.": "there is no checkpoint under .",
    "--data.predict_source=Digts": (
        "--data.predict_source: Digts is no class known here; did you mean lt_cli.data.images.Digits?"
    ),
    "--data.predict_source=lt_cli.data.palette.GreyLevels": (
        "--data.predict_source: lt_cli.data.palette.GreyLevels is no ImageSource"
    ),
    "--data.predict=3": "--data: PixelData has no option predict; did you mean predict_source?",
    "--data.num_worker=3": "--data: PixelData has no option num_worker; did you mean num_workers?",
    "--data.sizes=[4,4]": "--data: PixelData has no option sizes; did you mean size?",
    "--checkpoints.every_minute=1": (
        "there is no option --checkpoints.every_minute=1; did you mean --checkpoints.every_minutes?"
    ),
    "--trainer.acelerator=cpu": "there is no option --trainer.acelerator=cpu; did you mean --trainer.accelerator?",
    "--trainer.gradient_clip=1": (
        "there is no option --trainer.gradient_clip=1; did you mean --trainer.gradient_clip_val?"
    ),
    "--trainer.callback=x": "there is no option --trainer.callback=x; did you mean --trainer.callbacks?",
    "--seed=1": "there is no option --seed=1; did you mean --seed_everything?",
}
"""Of a fit that classifies pictures."""


def words(line: str) -> list[str]:
    """Options as the shell would part them, in whose values there may be spaces."""
    return line.replace(" --", "\n--").replace(" fit", "\nfit").split("\n") if line else []


FIRST_ARGUMENT = {
    "": "nothing",
    "fti": "fti; did you mean fit?",
    "tset --ckpt_path=best": "tset; did you mean test?",
    "validat": "validat; did you mean validate?",
    "prdict": "prdict; did you mean predict?",
    f"train --config={TASKS['pixel_generation']}": "train",
    "--config=x.yaml fit": "--config=x.yaml",
    "--seed_everything=1": "--seed_everything=1",
}
"""What stands where a subcommand should."""

EVALUATION = {
    "--data.bach_size=3": "--data: PixelData has no option bach_size; did you mean batch_size?",
    "--data.batch_size=0": "batch_size (0) must be at least 1",
    "--model.optimiser.lr=1": "there is no option --model.optimiser.lr=1; did you mean --model.optimizer?",
    "--model.backbone.num_layer=8": "--model.backbone: GPT has no option num_layer; did you mean num_layers?",
    "--model.backbone=GTP": "--model.backbone: GTP is no class known here; did you mean lt_cli.backbones.gpt.GPT?",
    "--trainer.limit_test_batch=1": "there is no option --trainer.limit_test_batch=1; did you mean "
    "--trainer.limit_test_batches?",
    "--trainer.max_epochs=x": "--trainer.max_epochs: expected int, got x",
    "--data.palette.num_colors=7": "the palette has 7 colours, the run that goes on learned 5: set "
    "--data.palette.num_colors=5, or start a new run",
    "--ckpt_path=gone.ckpt": "there is no checkpoint gone.ckpt",
    "--ckpt_path=best": "--ckpt_path best: no run in runs/* has a best.ckpt; run fit first, or give a file",
    "--ckpt_path=": "--ckpt_path needs best, last, a file or a directory",
    "--config=gone.yaml": "--config gone.yaml: No such file or directory",
    "--predictions.format=xml": "--predictions.format: expected one of 'csv', 'jsonl', got xml",
}
"""Of validate, test and predict from a checkpoint, of one task and the other by turns."""


def save(name: str, content: object) -> Callable[[], None]:
    """Makes a file of text, bytes, pixels or colours (.npy), or of what torch.save writes (.ckpt)."""

    def make() -> None:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        elif path.suffix == ".npy":
            np.save(path, np.asarray(content))
        elif isinstance(content, np.ndarray):
            Image.fromarray(content).save(path)
        else:
            torch.save(content, path)

    return make


def pictures(*names: str, side: int = 4) -> Callable[[], None]:
    """Makes grey pictures."""
    return together(*(save(name, np.full((side, side), 100, np.uint8)) for name in names))


def together(*makers: Callable[[], object]) -> Callable[[], None]:
    """Makes one after the other."""

    def make() -> None:
        for maker in makers:
            maker()

    return make


def parquet(name: str, columns: dict[str, list[Any]]) -> Callable[[], None]:
    """Makes a table."""

    def make() -> None:
        from datasets import Dataset

        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(columns).to_parquet(name)

    return make


class Evil:
    """Code in a checkpoint."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def golden(task: str, **changes: Any) -> dict[str, Any]:
    """A checkpoint's content, with some of our own notes changed."""
    content: dict[str, Any] = torch.load(CHECKPOINTS[task], weights_only=True)
    content["lt_cli"] = {**content["lt_cli"], **changes}
    return content


def with_class(part: str, class_path: str) -> Callable[[], None]:
    """Makes a checkpoint whose configuration has another class somewhere."""
    content = golden("pixel_generation")
    owner = content["lt_cli"]["config"]["model"]
    (owner if part == "model" else owner["init_args"][part])["class_path"] = class_path
    return save("mine.ckpt", content)


FOLDER = ["--data.source=FolderImages", "--data.source.root=mine"]
PALETTE = ["--data.palette=PaletteFile", "--data.palette.path=mine.npy"]
PARQUET = ["--data.source=HuggingFaceImages", "--data.source.path=mine", "--data.source.test_split=null"]
SUFFIXES = ".avif .bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp"
CLASSES = ["mine/train/cat/1.png", "mine/train/dog/1.png", "mine/train/dog/2.png"]


def of_data(options: list[str], says: str, before: Callable[[], object], command: str = "fit") -> Wrong:
    """A classifier's fit or test, as it reads labels too."""
    if command == "fit":
        return Wrong([*FIT["pixel_classification"], *options], says, before=before)
    checkpoint = CHECKPOINTS["pixel_classification"]
    return Wrong([command, f"--ckpt_path={checkpoint}", "--trainer.accelerator=cpu", *options], says, before=before)


DATA = [
    of_data(
        FOLDER,
        "mine must hold pictures (.avif .bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff "
        ".webp); set root to a folder that does",
        lambda: Path("mine").mkdir(),
    ),
    of_data(
        FOLDER,
        "mine must hold pictures (.avif .bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff "
        ".webp); set root to a folder that does",
        save("mine/notes.txt", "no picture"),
    ),
    of_data(FOLDER, "root (mine) must be a folder of pictures; there is none", save("mine", "a file")),
    of_data(
        FOLDER,
        "mine/a/2.png is no readable picture (cannot identify image file); mend or remove it",
        together(pictures("mine/a/1.png"), save("mine/a/2.png", b"\x89PNG and nothing")),
    ),
    of_data(
        FOLDER,
        "mine/a/2.jpg is no readable picture (cannot identify image file); mend or remove it",
        together(pictures("mine/a/1.png"), save("mine/a/2.jpg", "text")),
    ),
    of_data(
        FOLDER,
        "mine/a/2.png is no readable picture (cannot identify image file); mend or remove it",
        together(pictures("mine/a/1.png"), save("mine/a/2.png", b"")),
    ),
    of_data(
        FOLDER,
        "mine/a/2.tif is no readable picture (its values must be integers of 8 or 16 bits); mend or remove it",
        together(pictures("mine/a/1.png"), save("mine/a/2.tif", np.ones((4, 4), np.float32))),
    ),
    of_data(
        FOLDER,
        "mine must hold pictures or class folders, not both: 2.png and a/",
        pictures("mine/a/1.png", "mine/2.png"),
    ),
    of_data(
        FOLDER,
        "val_fraction (0.1) of 1 pictures leaves a split empty: set --data.val_fraction or give more pictures",
        pictures("mine/a/1.png"),
    ),
    of_data(
        FOLDER,
        "the data has no labels: a folder of pictures needs one sub-folder per class",
        pictures("mine/1.png", "mine/2.png", "mine/3.png", "mine/4.png", "mine/5.png", "mine/6.png"),
    ),
    of_data(
        FOLDER,
        "mine/b must hold pictures (.avif .bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp); add some or remove it",
        together(pictures("mine/a/1.png", "mine/a/2.png"), lambda: Path("mine/b").mkdir()),
    ),
    of_data(
        [*FOLDER, "--data.size=null"],
        "mine/a/2.png has 5x5 pixels, mine/a/1.png has 4x4: set size to the height and width that all shall have",
        together(pictures("mine/a/1.png"), pictures("mine/a/2.png", side=5)),
    ),
    of_data(
        FOLDER,
        "mine/test/cow: 'cow' must be one of the training pictures' classes ['cat', 'dog']",
        pictures(*CLASSES, "mine/test/cow/1.png"),
        "test",
    ),
    of_data(FOLDER, "FolderImages has no test pictures", pictures(*CLASSES), "test"),
    of_data(PALETTE, "palette file mine.npy is no readable .npy file: …", save("mine.npy", "text")),
    of_data(
        PALETTE,
        "palette file mine.npy must hold floating-point numbers of shape (number of colours, 1); it holds float64 (2,)",
        save("mine.npy", [0.5, 1.0]),
    ),
    of_data(
        PALETTE,
        "palette file mine.npy must hold floating-point numbers of shape (number of colours, 1); it holds int64 (2, 1)",
        save("mine.npy", [[0], [1]]),
    ),
    of_data(
        PALETTE, "palette file mine.npy must hold values in [0, 1]; it has 0.0 to 2.0", save("mine.npy", [[0.0], [2.0]])
    ),
    of_data(
        PALETTE,
        "palette file mine.npy must hold floating-point numbers of shape (number of colours, "
        "1); it holds float64 (1, 3)",
        save("mine.npy", [[0.0, 0.5, 1.0]]),
    ),
    of_data(PALETTE, "palette file mine.npy is no readable .npy file: …", lambda: Path("mine.npy").mkdir()),
    of_data(
        PARQUET,
        "path (mine), config_name (None), split (None) could not be loaded: …",
        save("mine/train.parquet", "text"),
    ),
    of_data(
        PARQUET,
        "image_column (None) must be set to one of the columns of mine: text (Value)",
        parquet("mine/train.parquet", {"text": ["a", "b"]}),
    ),
    of_data(
        [*PARQUET, "--data.source.image_column=picture"],
        "image_column (picture) must be set to one of the columns of mine: text (Value)",
        parquet("mine/train.parquet", {"text": ["a", "b"]}),
    ),
    of_data(
        [*PARQUET, "--data.source.image_column=text"],
        "image_column (text) must hold pictures; it has Value('int64')",
        parquet("mine/train.parquet", {"text": [1, 2]}),
    ),
    of_data(
        [*PARQUET, "--data.source.train_split=trian"],
        "path (mine), config_name (None), split (trian) could not be loaded: …",
        parquet("mine/train.parquet", {"text": ["a"]}),
    ),
]
"""Pictures, palettes and tables that cannot be read or do not fit."""


def of_checkpoint(says: str, before: Callable[[], object], *options: str, command: str = "test") -> Wrong:
    """What is wrong with the file itself."""
    return Wrong([command, "--ckpt_path=mine.ckpt", "--trainer.accelerator=cpu", *options], says, before=before)


WHOLE = CHECKPOINTS["pixel_generation"].read_bytes()
SOUND = save("mine.ckpt", golden("pixel_generation"))
"""Where it is the options that are wrong."""
FILES = [
    of_checkpoint("mine.ckpt is truncated or no checkpoint: …", save("mine.ckpt", b"")),
    of_checkpoint("mine.ckpt is truncated or no checkpoint: …", save("mine.ckpt", WHOLE[:1000])),
    of_checkpoint("mine.ckpt is truncated or no checkpoint: …", save("mine.ckpt", WHOLE[:-1000]), command="fit"),
    of_checkpoint("mine.ckpt is truncated or no checkpoint: …", save("mine.ckpt", "text"), command="predict"),
    of_checkpoint(
        "--ckpt_path mine.ckpt: no run in mine.ckpt has a checkpoint; run fit first, or give a file",
        lambda: Path("mine.ckpt").mkdir(),
        command="validate",
    ),
    of_checkpoint(
        "mine.ckpt is not a checkpoint of tensors and plain types, or holds code, which is never run",
        save("mine.ckpt", {"state_dict": {}, "evil": Evil()}),
    ),
    of_checkpoint(
        "mine.ckpt is not a checkpoint of tensors and plain types, or holds code, which is never run",
        save("mine.ckpt", pickle.dumps(Evil())),
    ),
    of_checkpoint(
        "mine.ckpt is not a training checkpoint: it has no state_dict", save("mine.ckpt", {"weight": torch.zeros(3)})
    ),
    of_checkpoint("mine.ckpt is not a training checkpoint: it has no state_dict", save("mine.ckpt", [torch.zeros(3)])),
    of_checkpoint(
        "mine.ckpt holds no configuration (it was not written by lt_cli's command line): give --config",
        save("mine.ckpt", {"state_dict": {"weight": torch.zeros(3)}}),
    ),
    of_checkpoint(
        "mine.ckpt has format 99, this version reads up to 1: update lt_cli",
        save("mine.ckpt", golden("pixel_generation", format=99)),
    ),
    of_checkpoint(
        "mine.ckpt holds no configuration (it was not written by lt_cli's command line): give --config",
        save("mine.ckpt", golden("pixel_generation", config=None)),
        command="fit",
    ),
    of_checkpoint(
        "mine.ckpt was written with the class lt_cli.tasks.pixel_generation.PixelGeneratio, which is not there: …",
        with_class("model", "lt_cli.tasks.pixel_generation.PixelGeneratio"),
    ),
    of_checkpoint(
        "mine.ckpt was written with the class gone_module.Net, which is not there: …",
        with_class("backbone", "gone_module.Net"),
        command="predict",
    ),
    of_checkpoint(
        "mine.ckpt is refused: os.system in its configuration is not known to build a part of a run",
        with_class("optimizer", "os.system"),
        command="fit",
    ),
    of_checkpoint(
        "--model.backbone: lt_cli.data.images.Digits is no CausalBackbone",
        with_class("backbone", "lt_cli.data.images.Digits"),
    ),
    of_checkpoint(
        "the checkpoint mine.ckpt is of another model: …",
        SOUND,
        "--model.backbone.num_layers=1",
    ),
    of_checkpoint(
        "the checkpoint mine.ckpt is of another model: …",
        SOUND,
        "--model.backbone.embed_dim=4",
    ),
    of_checkpoint(
        "the palette has 6 colours, the run that goes on learned 5: set "
        "--data.palette.num_colors=5, or start a new run",
        SOUND,
        "--data.palette.num_colors=6",
    ),
    of_checkpoint(
        "keep_rows (4) must be less than the pictures' height (4)",
        SOUND,
        "--model.keep_rows=4",
        command="predict",
    ),
    Wrong(
        ["test", f"--config={TASKS['pixel_classification']}", f"--ckpt_path={CHECKPOINTS['pixel_generation']}"],
        "the checkpoint …",
    ),
    Wrong(
        ["predict", f"--config={TASKS['pixel_generation']}", f"--ckpt_path={CHECKPOINTS['pixel_classification']}"],
        "the checkpoint …",
    ),
]
"""Checkpoints that are none, or of something else."""


def edited(task: str, edit: Callable[[Any], object], says: str) -> Wrong:
    """The contract's configuration, changed in one place."""
    config = yaml.safe_load(TASKS[task].read_text())
    edit(config)
    return Wrong(["fit", "--config=mine.yaml"], says, before=save("mine.yaml", yaml.safe_dump(config)))


def renamed(*path: str) -> Callable[[Any], None]:
    """Changes one key, the last but one of a path, into the last."""

    def edit(config: Any) -> None:
        for key in path[:-2]:
            config = config[key]
        config[path[-1]] = config.pop(path[-2])

    return edit


def changed(*path: Any) -> Callable[[Any], None]:
    """Puts a value, the last of a path, in the place of the one that the path leads to."""

    def edit(config: Any) -> None:
        for key in path[:-2]:
            config = config[key]
        config[path[-2]] = path[-1]

    return edit


MODEL, DATA_ARGS = ("model", "init_args"), ("data", "init_args")
BACKBONE = (*MODEL, "backbone")
CONFIGS = [
    edited(list(TASKS)[number % 2], edit, says)
    for number, (edit, says) in enumerate(
        [
            (renamed("model", "modle"), "there is no option --modle.…"),
            (renamed("data", "dta"), "there is no option --dta.…"),
            (renamed("trainer", "trainr"), "there is no option --trainr.…"),
            (
                renamed("model", "class_path", "clas_path"),
                "--config mine.yaml: model holds class_path and init_args, not clas_path; did you mean class_path?",
            ),
            (
                renamed("model", "init_args", "init_arg"),
                "--config mine.yaml: model holds class_path and init_args, not init_arg; did you mean init_args?",
            ),
            (renamed(*MODEL, "backbone", "backbnoe"), "--model: Pixel…"),
            (
                renamed(*BACKBONE, "class_path", "class"),
                "--config mine.yaml: model.init_args.backbone holds class_path and init_args, not "
                "class; did you mean class_path?",
            ),
            (
                renamed(*BACKBONE, "init_args", "num_layers", "num_layer"),
                "--model.backbone: GPT has no option num_layer; did you mean num_layers?",
            ),
            (
                renamed(*DATA_ARGS, "batch_size", "bach_size"),
                "--data: PixelData has no option bach_size; did you mean batch_size?",
            ),
            (
                renamed(*DATA_ARGS, "palette", "pallete"),
                "--data: PixelData has no option pallete.init_args.num_colors; did you mean palette?",
            ),
            (
                renamed("trainer", "max_epochs", "max_epoch"),
                "there is no option --trainer.max_epoch; did you mean --trainer.max_epochs?",
            ),
            (
                changed("model", "class_path", "lt_cli.tasks.pixel.Pixel"),
                "--model: there is no pixel in lt_cli.tasks; did you mean pixel_generation?",
            ),
            (
                changed(*BACKBONE, "class_path", "GTP"),
                "--model.backbone: GTP is no class known here; did you mean lt_cli.backbones.gpt.GPT?",
            ),
            (
                changed(*BACKBONE, "class_path", "lt_cli.backbnes.gpt.GPT"),
                "--model.backbone: there is no backbnes in lt_cli; did you mean backbones?",
            ),
            (
                changed(*BACKBONE, "class_path", 3),
                "--model.backbone: expected class_path, a text, and init_args, options and their values",
            ),
            (
                changed(*BACKBONE, "class_path", None),
                "--model.backbone: expected class_path, a text, and init_args, options and their values",
            ),
            (
                changed(*BACKBONE, "class_path", {}),
                "--model.backbone: expected class_path, a text, and init_args, options and their values",
            ),
            (
                changed(*BACKBONE, "class_path", b"GPT"),
                "--model.backbone: expected class_path, a text, and init_args, options and their values",
            ),
            (
                changed(*BACKBONE, "num_layers", 3),
                "--config mine.yaml: model.init_args.backbone holds class_path and init_args, not num_layers",
            ),
            (
                changed("trainer", "limit_test_batches", 10**400),
                "--trainer.accelerator=cpu --trainer.devices=auto --trainer.strategy=auto: …",
            ),
            (changed("class_path", "x"), "there is no option --class_path; did you mean --ckpt_path?"),
            (
                changed(*BACKBONE, "init_args", [1]),
                "--model.backbone: expected class_path, a text, and init_args, options and their values",
            ),
            (changed(*BACKBONE, "init_args", "num_layers", {}), "--model.backbone.num_layers: expected int, got {}"),
            (changed(*BACKBONE, "init_args", "dropout", "much"), "--model.backbone.dropout: expected float, got much"),
            (
                changed(*BACKBONE, [1]),
                "--model.backbone: expected a class, by its full dotted path, and its options, got [1]",
            ),
            (
                changed(*MODEL, "optimizer", "class_path", "torch.optim.AdmW"),
                "--model.optimizer: there is no AdmW in torch.optim; did you mean AdamW?",
            ),
            (changed(*MODEL, "optimizer", "init_args", "lr", "fast"), "--model.optimizer.lr: expected float, got fast"),
            (
                changed(*MODEL, "schedule", "class_path", "WarmupCosin"),
                "--model.schedule: WarmupCosin is no class known here; did you mean lt_cli.optim.WarmupCosine?",
            ),
            (
                changed(*DATA_ARGS, "source", "class_path", "lt_cli.data.images.Digts"),
                "--data.source: there is no Digts in lt_cli.data.images; did you mean Digits?",
            ),
            (
                changed(*DATA_ARGS, "source", "FolderImag"),
                "--data.source: FolderImag is no class known here; did you mean lt_cli.data.images.FolderImages?",
            ),
            (
                changed(*DATA_ARGS, "palette", "class_path", "GrayLevels"),
                "--data.palette: GrayLevels is no class known here; did you mean lt_cli.data.palette.GreyLevels?",
            ),
            (changed(*DATA_ARGS, "size", "large"), "--data.size: expected tuple, got large"),
            (
                changed("data", "class_path", "PixelDta"),
                "--data: PixelDta is no class known here; did you mean lt_cli.data.pixels.PixelData?",
            ),
            (changed("data", []), "--data: expected a class, by its full dotted path, and its options, got []"),
            (
                changed("model", "PixelGeneratio"),
                "--model: PixelGeneratio is no class known here; did you mean "
                "lt_cli.tasks.pixel_generation.PixelGeneration?",
            ),
            (
                changed("trainer", "callbacks", ["ModelSumary"]),
                "--trainer.callbacks: ModelSumary is no class known here; did you mean "
                "lightning.pytorch.callbacks.ModelSummary?",
            ),
            (
                changed("trainer", "callbacks", [{"class_path": "ModelSummary", "init_args": {"max_dept": 1}}]),
                "--trainer.callbacks: ModelSummary has no option max_dept; did you mean max_depth?",
            ),
            (
                changed("trainer", "precision", "sixteen"),
                "--trainer.precision: expected int or one of 'transformer-engine', "
                "'transformer-engine-float16', '16-true', '16-mixed', 'bf16-true', 'bf16-mixed', "
                "'32-true', '64-true', '64', '32', '16', 'bf16', got sixteen",
            ),
            (changed("freeze", {"modules": [3]}), "--freeze.modules: expected str, got 3"),
            (
                changed("freeze", {"modules": "backbone", "thaw": {0: "backbone"}}),
                "freeze.thaw: epoch 0 must be at least 1; leave out what never freezes",
            ),
            (
                changed("freeze", {"modules": "backbone", "thaw": {1: "metrics"}}),
                "freeze.thaw of epoch 1 (metrics) must name parts that freeze.modules (backbone) "
                "freezes and no earlier epoch thaws",
            ),
            (changed("weight_noise", {"std": float("nan")}), "weight_noise.std (nan) must be above 0 and finite"),
            (
                changed("weight_noise", {"std": 0.1, "mdoe": "permanent"}),
                "--weight_noise: WeightNoise has no option mdoe; did you mean mode?",
            ),
            (changed("sample_images", {"num_columns": 0}), "num_columns (0) must be at least 1"),
            (changed("seed_everything", "soon"), "--seed_everything: expected bool or int, got soon"),
            (changed("ckpt_path", "gone.ckpt"), "there is no checkpoint gone.ckpt"),
            (changed("ckpt_path", [1]), "--ckpt_path: expected str, got [1]"),
        ]
    )
]
"""Configurations with one mistake, in one task and the other by turns."""

TEXTS = {
    "?": "--config mine.yaml: None must be the name of an option; put quotes around it if it is one",
    "1: x": "--config mine.yaml: 1 must be the name of an option; put quotes around it if it is one",
    "trainer: {2: x}": "mine.yaml: trainer: 2 must be the name of an option; put quotes around it if it is one",
    "'': x": 'Empty nested key: "".',
    "a b: x": 'Spaces not allowed in keys: "a b".',
    "model: x: y": "--config mine.yaml is not YAML: …",
    "model: !!python/object:os.system {}": "--config mine.yaml is not YAML: …",
    "model: *unknown": "--config mine.yaml is not YAML: …",
    "\tmodel: x": "--config mine.yaml is not YAML: …",
}
"""Configurations that are hardly any."""

PLACES = [
    Wrong([*FIT[task], option], says, code, before)
    for task in TASKS
    for option, says, code, before in [
        ("--trainer.default_root_dir=taken", "--trainer.default_root_dir: taken/pixel_…", 2, save("taken", "a file")),
        ("--trainer.default_root_dir=/dev/null/below", "--trainer.default_root_dir: /dev/null/below/pixel_…", 2, None),
        ("--model.backbone.embed_dim=1000000000000", "there is not enough memory for another …", 1, None),
    ]
] + [
    Wrong(
        ["predict", f"--ckpt_path={checkpoint}", "--trainer.accelerator=cpu", "--predictions.directory=taken"],
        "--predictions.directory: taken cannot be made: File exists",
        before=save("taken", "a file"),
    )
    for checkpoint in CHECKPOINTS.values()
]
"""Where there is no place: directories that cannot be, memory that is not there."""

FSDP2 = [*FIT["pixel_generation"], "--trainer.strategy=lt_cli.fsdp2.FSDP2", "--trainer.devices=1"]
DDP = [*FIT["pixel_generation"], "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy"]

STRATEGIES = [
    Wrong(
        [*FSDP2, "--trainer.strategy.activation_checkpoint=true"],
        "--trainer.strategy: FSDP2 has no option activation_checkpoint; did you mean activation_checkpointing?",
    ),
    Wrong(
        [*FSDP2, "--trainer.strategy.data_parallel_size=x"],
        "--trainer.strategy.data_parallel_size: expected int or one of 'auto', got x",
    ),
    Wrong(
        [*DDP, "--trainer.strategy.timeou=0:05:00"],
        "--trainer.strategy: DDPStrategy has no option timeou; did you mean timeout?",
    ),
    Wrong(
        [*FIT["pixel_generation"], "--trainer.strategy=fsdp2", "--trainer.strategy.timeout=0:05:00"],
        "--trainer.strategy: fsdp2 is no class known here: give its full dotted path, such as …",
    ),
    Wrong(
        ["test", "--ckpt_path=run/last.ckpt"],
        "run/last.ckpt is a checkpoint of DeepSpeed's own, which is not read here: python …",
        before=save("run/last.ckpt/zero_to_fp32.py", "print()"),
    ),
]
"""Options of a strategy, and what one leaves behind."""

CORPUS = [
    *STRATEGIES,
    Wrong([""], "the first argument must be fit, validate, test or predict, not nothing"),
    *(Wrong([*FIT["pixel_generation"], *words(option)], says) for option, says in GENERATION.items()),
    *(Wrong([*FIT["pixel_classification"], *words(option)], says) for option, says in CLASSIFICATION.items()),
    *(
        Wrong(words(line), f"the first argument must be fit, validate, test or predict, not {rest}")
        for line, rest in FIRST_ARGUMENT.items()
    ),
    *(
        Wrong([command, f"--ckpt_path={checkpoint}", "--trainer.accelerator=cpu", option], says)
        for number, (option, says) in enumerate(EVALUATION.items())
        for command, checkpoint in list(itertools.product(EVALUATORS, CHECKPOINTS.values()))[number % 2 :: 2]
    ),
    *(
        Wrong(
            [command],
            f"{command} needs trained weights: give --ckpt_path=best, last or a file, or --config "
            "with a model whose weights are all pretrained",
        )
        for command in EVALUATORS
    ),
    *DATA,
    *FILES,
    *CONFIGS,
    *(Wrong(["fit", "--config=mine.yaml"], says, before=save("mine.yaml", text)) for text, says in TEXTS.items()),
    *PLACES,
]
