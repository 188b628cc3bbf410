"""Image GPT: predict each pixel of a picture from those before it."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lt_cli.backbones.base import CausalBackbone
from lt_cli.data.base import Batch, DataModule, PictureData
from lt_cli.errors import UserError
from lt_cli.generation import Sampling, generate
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine
from lt_cli.tasks.base import Stage, Task


class PixelGeneration(Task):
    """Generative pre-training on pixels (Chen et al. 2020, https://openai.com/index/image-gpt).

    Logs ``loss`` in nats per pixel and ``bits_per_pixel``. predict completes each picture from its first rows.

    Args:
        backbone: A causal backbone with a start token, so that the first pixel is learned too.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        sampling: How pixels are drawn, in predict and in pictures of samples.
        keep_rows: Rows of a picture that predict keeps and completes; null for half, 0 to ignore the picture.
        num_completions: Completions of each picture.
    """

    backbone: CausalBackbone

    def __init__(
        self,
        *,
        backbone: CausalBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
        keep_rows: int | None = None,
        num_completions: int = 3,
    ) -> None:
        """Stores its parts."""
        super().__init__(backbone, optimizer, schedule)
        if keep_rows is not None and keep_rows < 0:
            raise UserError(f"keep_rows ({keep_rows}) must not be negative")
        if num_completions < 1:
            raise UserError(f"num_completions ({num_completions}) must be at least 1")
        self.sampling, self.keep_rows, self.num_completions = sampling, keep_rows, num_completions

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, and the start token."""
        found = super().problems(data)
        if self.backbone.start_id is None:
            found.append(
                "pixels are predicted from the first one on, and the backbone has no start token: "
                "add --model.backbone.init_args.start_token=true"
            )
        return found

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Mean negative log likelihood of all pixels, the first included."""
        tokens = batch["input_ids"]
        loss = pixel_loss(self.backbone, self.backbone(with_start(self.backbone, tokens)), tokens)
        return {"loss": loss, "bits_per_pixel": loss.detach() / math.log(2)}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``input_ids``, ``prompt_len`` and ``completions`` (num_completions, H * W), as tokens."""
        tokens = batch["input_ids"]
        _, height, width = self._pictures()
        keep_rows = height // 2 if self.keep_rows is None else self.keep_rows
        if keep_rows >= height:
            raise UserError(f"keep_rows ({keep_rows}) must be less than the pictures' height ({height})")
        prompt = tokens[:, : keep_rows * width].repeat_interleave(self.num_completions, dim=0)
        numbers = [
            int(row) * self.num_completions + copy for row in batch["index"] for copy in range(self.num_completions)
        ]
        completions = self.complete(prompt, numbers, tokens.shape[1])
        return {
            "index": batch["index"],
            "input_ids": tokens,
            "prompt_len": torch.full_like(batch["index"], prompt.shape[1]),
            "completions": completions.view(len(tokens), self.num_completions, -1),
        }

    def complete(self, prompt: Tensor, numbers: list[int], num_pixels: int) -> Tensor:
        """Whole pictures (B, num_pixels) that begin with ``prompt`` (B, T); row i is drawn by ``numbers[i]``."""
        assert self.backbone.start_id is not None
        start = prompt.new_full((len(prompt), 1), self.backbone.start_id)
        new = num_pixels - prompt.shape[1]
        continuation = generate(self.backbone, torch.cat([start, prompt], dim=1), new, self.sampling, numbers)
        return torch.cat([prompt, continuation], dim=1)

    def sample_images(self, num_samples: int) -> NDArray[np.uint8]:
        """Pictures (N, H, W, C) drawn from nothing, always with the same random numbers."""
        data, height, width = self._pictures()
        prompt = torch.empty(num_samples, 0, dtype=torch.long, device=self.device)
        return data.to_images(self.complete(prompt, list(range(num_samples)), height * width))

    def _pictures(self) -> tuple[PictureData, int, int]:
        """The data, and height and width of its pictures."""
        if not isinstance(self.data, PictureData) or self.data.image_shape is None:
            raise UserError(
                f"drawing needs data of pictures, such as lt_cli.data.pixels.PixelData, not {type(self.data).__name__}"
            )
        return self.data, *self.data.image_shape


def with_start(backbone: CausalBackbone, tokens: Tensor) -> Tensor:
    """The start token, then all tokens but the last, so that position i sees what comes before token i.

    Shape:
        - tokens, output: (B, T)
    """
    assert backbone.start_id is not None
    return torch.cat([torch.full_like(tokens[:, :1], backbone.start_id), tokens[:, :-1]], dim=1)


def pixel_loss(backbone: CausalBackbone, features: Tensor, tokens: Tensor) -> Tensor:
    """Mean nats per pixel, the first included.

    Shape:
        - features: (B, T, D), of ``with_start(backbone, tokens)``
        - tokens: (B, T)
        - output: ()
    """
    return F.cross_entropy(backbone.unembed(features).flatten(0, 1).float(), tokens.flatten())
