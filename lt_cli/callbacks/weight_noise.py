"""Gaussian noise on the weights while they train."""

import math
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lt_cli.callbacks.module_names import covered
from lt_cli.dtensors import local_of, part_of
from lt_cli.errors import UserError

Mode = Literal["transient", "permanent"]


class WeightNoise(Callback):
    """Adds N(0, std²) to every weight at each optimiser step (Graves 2011, https://papers.nips.cc/paper/4329).

    Frozen parameters get none. The noise of a step is a function of the seed, the step and the parameters
    that train, so that it is the same on all processes, for all batches of an accumulated step, and after
    a resume.

    Args:
        std: Standard deviation of the noise, in units of the weights; above 0.
        modules: Dotted names and globs of the task's modules and parameters that get noise; ``*`` also
            matches dots.
        mode: transient takes the noise away as soon as the gradients are there, so that the optimiser,
            validation and checkpoints have the clean weights; permanent leaves it, a random walk.
        seed: Seed of the noise.

    Raises:
        UserError: If std is not above 0 and finite, the mode is neither, or a name matches nothing or
            nothing with weights.
    """

    def __init__(self, std: float, *, modules: list[str] | str = "*", mode: Mode = "transient", seed: int = 0) -> None:
        """Checks the numbers; names are looked up when fit starts."""
        if not 0 < std < math.inf:
            raise UserError(f"weight_noise.std ({std}) must be above 0 and finite")
        if mode not in get_args(Mode):
            raise UserError(f"weight_noise.mode ({mode!r}) must be one of {', '.join(get_args(Mode))}")
        self.std, self.modules, self.mode, self.seed = std, modules, mode, seed
        self._parameters: list[nn.Parameter] = []
        self._clean: dict[Tensor, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks up the parameters, of heads made late too."""
        if stage != "fit":
            return
        pl_module.configure_model()
        noisy = covered(pl_module, self.modules, "weight_noise.modules")
        self._parameters = [parameter for parameter in pl_module.parameters() if parameter in noisy]
        if not self._parameters:
            raise UserError(f"weight_noise.modules ({self.modules}) names modules without parameters")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Adds the noise: for each batch anew where it is transient, once per optimiser step where it stays."""
        if self.mode == "transient" or batch_idx % trainer.accumulate_grad_batches == 0:
            self._perturb(trainer.global_step)
        if self.mode == "permanent":
            self._clean = {}

    def _perturb(self, step: int) -> None:
        parameters: list[Tensor] = [parameter for parameter in self._parameters if parameter.requires_grad]
        if not parameters:
            return
        generators = {
            device: torch.Generator(device).manual_seed(self.seed * 1_000_003 + step)
            for device in {parameter.device for parameter in parameters}
        }
        with torch.no_grad():
            self._clean = {parameter: parameter.clone() for parameter in parameters}
            for parameter in parameters:
                _draw(parameter, self.std, generators[parameter.device])
            torch._foreach_add_(parameters, [*self._clean.values()])

    def _restore(self, *_: Any, **__: Any) -> None:
        if self._clean:
            with torch.no_grad():
                torch._foreach_copy_(
                    [local_of(one) for one in self._clean], [local_of(one) for one in self._clean.values()]
                )
            self._clean = {}

    # Only forward and backward ever see transient noise, so that nobody who validates or saves, in whatever
    # order of callbacks, has to know of it. The first hook does that; the others serve batches without backward.
    on_after_backward = _restore
    on_before_optimizer_step = _restore
    on_train_batch_end = _restore
    on_train_epoch_end = _restore
    on_exception = _restore


def _draw(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    """In place, as the copies are memory enough; where a weight lies otherwise in memory, the same numbers.

    Of a weight that is shared out all processes draw all, and keep their part.
    """
    if not isinstance(parameter, DTensor) and parameter.is_contiguous():
        parameter.normal_(0, std, generator=generator)
        return
    noise = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    noise.normal_(0, std, generator=generator)
    parameter.copy_(part_of(noise, parameter))
