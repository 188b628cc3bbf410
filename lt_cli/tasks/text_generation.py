"""Writes a text for each text: summaries, translations, answers."""

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from lt_cli.backbones.base import Seq2SeqBackbone
from lt_cli.beam_search import BeamSearch
from lt_cli.data.base import Batch, DataModule
from lt_cli.data.targets import TargetData
from lt_cli.generation import Conditioned, Sampling
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine
from lt_cli.tasks.writing import Beginning, WritingTask
from lt_cli.text_metrics import GenerationScores


class TextGeneration(WritingTask):
    """Writes the target of each source, token by token (Sutskever et al. 2014, https://arxiv.org/abs/1409.3215).

    Logs ``loss`` in nats per token of the targets and ``perplexity``, in validation and test without smoothing; and of
    what it writes there itself, ``rouge1``, ``rouge2``, ``rougeL`` and ``bleu`` against the data's texts. predict puts
    what it writes in the target's place.

    The best checkpoint is that with the highest ``rougeL``: what is wanted are good texts, and the loss, which sees
    each token after the data's own, often rises while they still get better. It is that with the highest ``bleu`` where
    ``bleu_tokenize`` says zh or char, as ROUGE's words stand between spaces; and that with the lowest loss where
    validation writes no texts.

    Args:
        backbone: An encoder-decoder.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        label_smoothing: Part of a token's label that is shared out among all tokens, in training (Szegedy et al. 2015,
            https://arxiv.org/abs/1512.00567).
        search: How the likeliest text is looked for; null where it is drawn.
        sampling: How tokens are drawn where there is no search; the same row is always drawn alike.
        max_new_tokens: Tokens of a text, at most, the end token included.
        generate_in_validation: Whether validation writes texts too, which takes far longer than the loss; one with
            ``trainer.limit_val_batches`` writes fewer.
        bleu_tokenize: How BLEU finds words: sacreBLEU's default, one that knows Unicode's punctuation, one for
            Chinese, characters, or spaces only, for text that has tokens already.
        scores: Whether predict also writes each text's ``score``, the mean log probability of its tokens in nats.

    Raises:
        UserError: If a number is out of its range, or there is not one of search and sampling.
    """

    backbone: Seq2SeqBackbone
    needed_data = "lt_cli.data.text_to_text.TextToText"

    def __init__(
        self,
        *,
        backbone: Seq2SeqBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        label_smoothing: float = 0.0,
        search: BeamSearch | None = BeamSearch(),  # noqa: B008  # frozen
        sampling: Sampling | None = None,
        max_new_tokens: int = 128,
        generate_in_validation: bool = True,
        bleu_tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a",
        scores: bool = False,
    ) -> None:
        """Stores its parts."""
        super().__init__(
            backbone=backbone,
            optimizer=optimizer,
            schedule=schedule,
            label_smoothing=label_smoothing,
            search=search,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            generate_in_validation=generate_in_validation,
            scores=scores,
        )
        self.bleu_tokenize: Literal["13a", "intl", "zh", "char", "none"] = bleu_tokenize
        score = "bleu" if bleu_tokenize in ("zh", "char") else "rougeL"
        self.monitor = (f"val/{score}", "max") if generate_in_validation else ("val/loss", "min")

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, and whether the processes can write."""
        found = super().problems(data)
        room = self.backbone.max_target_len
        if isinstance(data, TargetData) and data.max_target_len > room:
            found.append(
                f"the data has targets of {data.max_target_len} tokens, the backbone takes {room}: "
                f"add --data.max_target_len={room}, or --model.backbone.init_args.max_target_len={data.max_target_len}"
            )
        if isinstance(data, TargetData) and self.max_new_tokens > room:
            found.append(
                f"max_new_tokens ({self.max_new_tokens}) must be at most the backbone's max_target_len ({room}): "
                f"add --model.max_new_tokens={room}"
            )
        return found

    def make_score(self) -> GenerationScores:
        """ROUGE and BLEU."""
        return GenerationScores(self.bleu_tokenize)

    def features_of(self, batch: Batch, labels: Tensor) -> Tensor:
        """See WritingTask; the decoder sees each token one place later."""
        before = torch.full_like(labels, self.backbone.start_id)
        before[:, 1:] = labels[:, :-1].clamp(min=0)  # what is ignored comes last, and the decoder does not look ahead
        return self.backbone(  # type: ignore[no-any-return]
            batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=before
        )

    def update_metrics(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Writes the texts, and adds their scores."""
        metrics.update(self.texts(self.write(batch)), batch["references"])

    def beginning(self, batch: Batch) -> Beginning:
        """The start token, behind which the decoder knows the sources."""
        decoder = Conditioned(self.backbone, batch["input_ids"], batch["attention_mask"])
        return Beginning(decoder, decoder.start, [1] * len(decoder.start))
