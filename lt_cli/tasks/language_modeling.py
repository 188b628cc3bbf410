"""Language modelling: the next token of a text, or those that are masked in it."""

import math
from typing import Any

import torch
from torch import Tensor

from lt_cli.backbones.base import CausalBackbone, LanguageBackbone, MaskedBackbone
from lt_cli.data.base import Batch, DataModule, TextData
from lt_cli.errors import UserError
from lt_cli.generation import Sampling, continue_prompts
from lt_cli.losses import IGNORE, likeliest, linear_cross_entropy
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine
from lt_cli.tasks.base import Stage, Task
from lt_cli.tasks.heads import DIGITS
from lt_cli.tasks.writing import unwritable


class _LanguageModeling(Task):
    """What both kinds share: the loss, and data of text."""

    backbone: LanguageBackbone

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, and whether the data has text."""
        if not isinstance(data, TextData):
            name = type(data).__name__
            return [f"language modelling needs data of text, such as lt_cli.data.packed_text.PackedText, not {name}"]
        return super().problems(data)

    @property
    def text(self) -> TextData:
        """The data, which ``problems`` has seen to be text."""
        assert isinstance(self.data, TextData)
        return self.data

    def lengths(self, batch: Batch) -> list[int]:
        """Tokens of each prompt, none of which may be longer than the context."""
        lengths: list[int] = batch["attention_mask"].sum(1).tolist()
        longest, room = max(lengths), self.backbone.max_seq_len
        if longest > room:
            place = self.text.place(int(batch["index"][lengths.index(longest)]))
            raise UserError(f"{place} has {longest} tokens, more than the backbone's max_seq_len ({room}): shorten it")
        return lengths


class CausalLanguageModeling(_LanguageModeling):
    """Predicts each token of a text from those before it, and continues prompts (Radford et al. 2019).

    See https://openai.com/index/better-language-models. Logs ``loss`` in nats per token, ``perplexity``, and
    ``bits_per_byte``, which compares models of different tokenizers. predict continues the data's prompts.

    Args:
        backbone: A causal backbone: our GPT, or any of Hugging Face's.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        sampling: How tokens are drawn, in predict and in samples of texts.
        max_new_tokens: Tokens by which a prompt is continued, at most.
        stop: Texts at which a continuation ends; they are not part of it.
    """

    backbone: CausalBackbone

    def __init__(
        self,
        *,
        backbone: CausalBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
        max_new_tokens: int = 100,
        stop: list[str] | None = None,
    ) -> None:
        """Stores its parts."""
        super().__init__(backbone, optimizer, schedule)
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens ({max_new_tokens}) must be at least 1")
        if "" in (stop or []):
            raise UserError("stop must not have an empty text, which would end every continuation at once")
        self.sampling, self.max_new_tokens, self.stop = sampling, max_new_tokens, stop or []

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, masks, and documents that the backbone cannot keep apart."""
        found = super().problems(data)
        if not isinstance(data, TextData):
            return found
        if data.mask_id is not None:
            found.append("the data masks tokens, and the next one is to be predicted: add --data.masking=null")
        if self.backbone.start_id is not None:
            found.append(
                "a text begins with a token of the tokenizer, so the backbone's own start token would have no use: "
                "add --model.backbone.init_args.start_token=false"
            )
        if data.separate_documents and not self.backbone.separates_documents:
            name = type(self.backbone).__name__
            found.append(f"{name} cannot keep documents apart: add --data.separate_documents=false")
        trainer = self._trainer
        if trainer is not None and trainer.state.fn == "predict" and trainer.world_size > 1:
            found += unwritable(trainer, "")
        if unseen := [stop for stop in self.stop if not data.shows(stop)]:
            found.append(
                f"stop ({unseen[0]!r}) is a special token, which a text never shows: "
                "add --data.tokenizer.end_token=TOKEN to end texts with it"
            )
        return found

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Mean negative log likelihood of the tokens that follow."""
        places = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
        features = self.backbone(batch["input_ids"], **places)
        labels = batch["labels"]
        loss = linear_cross_entropy(features, *self.backbone.output_matrix(), labels)
        return {"loss": loss, "weight": (labels != IGNORE).sum()}

    def of_loss(self, loss: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Perplexity and bits per byte."""
        return {"perplexity": loss.exp(), "bits_per_byte": loss / math.log(2) * self.text.tokens_per_byte[stage]}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``completion`` and ``finish_reason``: end (of the text), stop, length or context."""
        prompts, lengths, rows = batch["input_ids"], self.lengths(batch), batch["index"].tolist()
        made = continue_prompts(self.backbone, prompts, lengths, self.max_new_tokens, self.sampling, rows, self._ended)
        texts = zip(prompts.tolist(), lengths, made, strict=True)
        ends = [self._finish(prompt[:length], tokens) for prompt, length, tokens in texts]
        return {
            "index": batch["index"],
            "completion": [completion for completion, _ in ends],
            "finish_reason": [reason for _, reason in ends],
        }

    def sample_texts(self, num_samples: int) -> list[str]:
        """Texts from their beginning on, always with the same random numbers."""
        start = torch.full((num_samples, 1), self.text.start_id, device=self.device)
        rows, lengths = range(num_samples), [1] * num_samples
        made = continue_prompts(self.backbone, start, lengths, self.max_new_tokens, self.sampling, rows, self._ended)
        return [self._finish([], tokens)[0] for tokens in made]

    def _ended(self, tokens: list[int]) -> bool:
        """Whether the text is over, or one of the stops stands in it."""
        if tokens[-1] == self.text.end_id:
            return True
        if not self.stop:
            return False
        longest = max(len(stop.encode()) for stop in self.stop)  # a token has a byte at least
        tail = self.text.decode(tokens[-longest - 4 :])
        return any(stop in tail for stop in self.stop)

    def _finish(self, prompt: list[int], tokens: list[int]) -> tuple[str, str]:
        """The text of a continuation, and why it ended."""
        if ended := tokens[-1:] == [self.text.end_id]:
            tokens = tokens[:-1]
        start = self.text.decode(prompt)
        text = self.text.decode(prompt + tokens)
        # with the prompt, as tokens may be written otherwise where a text begins
        completion = text[len(start) :] if text.startswith(start) else self.text.decode(tokens)
        if found := [place for stop in self.stop if (place := completion.find(stop)) >= 0]:
            return completion[: min(found)], "stop"
        if ended:
            return completion, "end"
        return completion, "length" if len(tokens) == self.max_new_tokens else "context"


class MaskedLanguageModeling(_LanguageModeling):
    """Finds the tokens that are masked in a text, from both sides (Devlin et al. 2018).

    See https://arxiv.org/abs/1810.04805. Logs ``loss`` in nats per masked token, ``perplexity`` and ``accuracy``.
    predict fills the masks of the data's prompts.

    Args:
        backbone: A masked backbone.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
    """

    backbone: MaskedBackbone

    def __init__(
        self,
        *,
        backbone: MaskedBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
    ) -> None:
        """Stores its parts."""
        super().__init__(backbone, optimizer, schedule)

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, and whether there are masks."""
        found = super().problems(data)
        if isinstance(data, TextData) and data.mask_id is None:
            found.append("the data masks no tokens: add --data.masking={}")
        return found

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Mean negative log likelihood of the masked tokens; in evaluation, how many of them are the likeliest one."""
        is_masked = batch["labels"] != IGNORE
        features, labels = self.backbone(batch["input_ids"])[is_masked], batch["labels"][is_masked]
        matrix, bias = self.backbone.output_matrix()
        outputs = {"loss": linear_cross_entropy(features, matrix, bias, labels), "weight": is_masked.sum()}
        if stage != "train":  # where it would cost a third of the loss
            found = (likeliest(features, matrix, bias) == labels).sum()
            outputs["accuracy"] = found / max(1, len(labels))
        return outputs

    def of_loss(self, loss: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Perplexity of the masked tokens."""
        return {"perplexity": loss.exp()}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``completion`` (the whole text, filled) and ``probability`` of each token filled in."""
        input_ids, attention_mask, lengths = batch["input_ids"], batch["attention_mask"], self.lengths(batch)
        is_masked = input_ids == self.text.mask_id
        logits = self.backbone.unembed(self.backbone(input_ids, attention_mask=attention_mask)[is_masked])
        best = logits.float().softmax(-1).max(-1)
        filled = input_ids.masked_scatter(is_masked, best.indices)
        probabilities = torch.split(best.values, is_masked.sum(1).tolist())
        return {
            "index": batch["index"],
            "completion": [self.text.decode(ids[:n].tolist()) for ids, n in zip(filled, lengths, strict=True)],
            "probability": [[round(value, DIGITS) for value in row.tolist()] for row in probabilities],
        }
