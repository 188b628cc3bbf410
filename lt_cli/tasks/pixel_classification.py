"""Classification of pictures from their pixel tokens: joint fine-tuning, or a linear probe on any layer."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_cli.backbones.base import CausalBackbone
from lt_cli.data.base import Batch, DataModule
from lt_cli.errors import UserError
from lt_cli.metrics import accuracy
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine
from lt_cli.tasks.base import MetricFactories, Stage, Task
from lt_cli.tasks.pixel_generation import pixel_loss, with_start


class PixelClassification(Task):
    """Image GPT's classifier on mean-pooled features (Chen et al. 2020, https://openai.com/index/image-gpt).

    Fine-tuning minimises loss = classification + generative_weight * generation. A linear probe freezes the
    backbone (``--freeze.modules=backbone``), sets generative_weight to 0 and chooses a layer; the paper's best
    features lie in the middle.

    Args:
        backbone: A causal backbone with a start token; lt_cli.reuse.causal_backbone takes one from a checkpoint.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        layer: Blocks below the features that are pooled, 0 to num_layers; null for the backbone's own output.
        generative_weight: Weight of the generative loss beside the classification loss.
        metrics: Functions of the number of classes that make torchmetrics; logged under their names. Without an
            ``accuracy`` among them, the lowest loss says which checkpoint is best.
    """

    monitor: tuple[str, Literal["min", "max"]] = ("val/accuracy", "max")
    backbone: CausalBackbone

    def __init__(
        self,
        *,
        backbone: CausalBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        layer: int | None = None,
        generative_weight: float = 1.0,
        metrics: MetricFactories = {"accuracy": accuracy},  # noqa: B006  # never written to
    ) -> None:
        """Stores its parts; the head comes with the labels."""
        super().__init__(backbone, optimizer, schedule)
        if layer is not None and not 0 <= layer <= backbone.num_layers:
            raise UserError(f"layer ({layer}) must be between 0 and the backbone's num_layers ({backbone.num_layers})")
        if generative_weight < 0:
            raise UserError(f"generative_weight ({generative_weight}) must not be negative")
        self.layer, self.generative_weight, self.metric_factories = layer, generative_weight, metrics
        if "accuracy" not in metrics:
            self.monitor = ("val/loss", "min")

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, the start token, and labels to learn."""
        found = super().problems(data)
        if self.backbone.start_id is None:
            found.append("the backbone has no start token: add --model.backbone.init_args.start_token=true")
        if not data.label_names:
            found.append("the data has no labels: a folder of pictures needs one sub-folder per class")
        return found

    def build(self, data: DataModule) -> None:
        """A linear head as wide as the labels, at zero, and the metrics.

        A probe's features are standardised by running statistics first, as a middle layer knows no norm and its
        pooled features differ little (He et al. 2021, https://arxiv.org/abs/2111.06377, appendix A.1).
        """
        assert data.label_names is not None
        num_classes = len(data.label_names)
        if self.layer is not None:
            self.standardize = nn.BatchNorm1d(self.backbone.embed_dim, affine=False)
        self.head = nn.Linear(self.backbone.embed_dim, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.make_metrics(self.metric_factories, num_classes)

    def scores(self, inputs: Tensor, features: Tensor | None = None) -> Tensor:
        """Logits of the classes; the backbone's own output is not computed again where it is given.

        Shape:
            - inputs: (B, T), the start token first
            - features: (B, T, D)
            - output: (B, C)
        """
        if self.layer is not None:
            pooled = self._standardized(self.backbone.hidden_states(inputs, self.layer).mean(dim=1))
        else:
            pooled = (self.backbone(inputs) if features is None else features).mean(dim=1)
        return self.head(pooled)  # type: ignore[no-any-return]

    def _standardized(self, pooled: Tensor) -> Tensor:
        """By the batch in training, where it has more than one row, and by the running statistics otherwise."""
        norm = self.standardize
        use_batch = norm.training and len(pooled) > 1
        return F.batch_norm(pooled, norm.running_mean, norm.running_var, training=use_batch)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Joint loss, its parts, and the scores for the metrics."""
        tokens, labels = batch["input_ids"], batch["labels"]
        inputs = with_start(self.backbone, tokens)
        features = self.backbone(inputs) if self.generative_weight else None
        scores = self.scores(inputs, features)
        outputs = {"loss": F.cross_entropy(scores.float(), labels), "scores": scores, "labels": labels}
        if features is not None:
            generative = pixel_loss(self.backbone, features, tokens)
            outputs["classification_loss"], outputs["generative_loss"] = outputs["loss"].detach(), generative.detach()
            outputs["loss"] = outputs["loss"] + self.generative_weight * generative
        return outputs

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``label`` (a name) and ``probability``."""
        assert self.data is not None
        assert self.data.label_names is not None
        probabilities, labels = self.scores(with_start(self.backbone, batch["input_ids"])).float().softmax(-1).max(-1)
        names = [self.data.label_names[label] for label in labels.tolist()]
        return {"index": batch["index"], "label": names, "probability": probabilities}
