"""What a test says of questions without an answer: the threshold with the best F1."""

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lt_cli.answers import answer_f1
from lt_cli.tasks.answer_spans import Threshold, best_threshold


class AnswerReport(Metric):
    """Gathers over all processes what each question would score if it were answered."""

    is_differentiable = False
    full_state_update = False
    margins: list[Tensor]
    f1: list[Tensor]
    has_answer: list[Tensor]

    def __init__(self) -> None:
        """Begins with no questions."""
        super().__init__()
        for name in ("margins", "f1", "has_answer"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, margins: Tensor, spans: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
        """Adds questions: how far no answer is above the best span, that span's text, and the accepted answers."""
        f1 = [answer_f1(text, accepted) for text, accepted in zip(spans, answers, strict=True)]
        has_answer = [float(bool(accepted)) for accepted in answers]
        for state, values in ((self.margins, margins), (self.f1, f1), (self.has_answer, has_answer)):
            state.append(torch.as_tensor(values, dtype=torch.float32, device=margins.device))

    def compute(self) -> Threshold | None:
        """The best threshold; None where every question has an answer."""
        margins, f1, has_answer = (
            dim_zero_cat(values).double().cpu().numpy() for values in (self.margins, self.f1, self.has_answer)
        )
        return None if has_answer.all() else best_threshold(margins, f1, has_answer > 0)

    def write(self, threshold: float) -> None:
        """Prints it beside the one in use, and begins anew; called on all processes, or it waits for them."""
        best: Threshold | None = self.compute()
        self.reset()
        if best is not None:
            rank_zero_info(
                f"no_answer_threshold is {threshold:g}; the best F1 of these questions, {best.f1:.4f}, "
                f"is at --model.no_answer_threshold={best.value:.6g}: choose it on validation rows"
            )
