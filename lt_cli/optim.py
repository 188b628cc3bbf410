"""Parameter groups and schedules that every task uses."""

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lt_cli.dtensors import part_of, whole_of
from lt_cli.errors import UserError

OptimizerFactory = Callable[[Iterable], Optimizer]  # type: ignore[type-arg]  # jsonargparse reads it as it stands
ScheduleFactory = Callable[[Optimizer, int], LRScheduler]


SCALE = "lr_scale"
"""Key of a group's factor of the learning rate, where there is a layer-wise decay."""


def parameter_groups(
    module: nn.Module, layer_decay: float = 1.0, backbone_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Two groups: weight matrices, which decay as the optimiser says, and all else, which never does.

    Norms, biases, embeddings and other parameters of one dimension do not decay. Frozen parameters are in
    their group from the start, so that a thaw changes no group. A tied weight counts as an embedding.

    With a layer-wise decay of the learning rate (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146), there are two
    such groups for each depth of the blocks, each with its factor of the learning rate under ``lr_scale``; a scale of
    the backbone's multiplies those of all that is in ``module.backbone``.
    """
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    scales = _scales(module, layer_decay) if layer_decay != 1 else {}
    if backbone_lr_scale != 1:
        for parameter in module.get_submodule("backbone").parameters():
            scales[id(parameter)] = scales.get(id(parameter), 1.0) * backbone_lr_scale
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        decays = parameter.ndim >= 2 and id(parameter) not in embeddings
        groups.setdefault((scales.get(id(parameter), 1.0), decays), []).append(parameter)
    return [
        {"params": groups[scale, decays]}
        | ({} if decays else {"weight_decay": 0.0})
        | ({SCALE: scale} if scales else {})
        for scale, decays in sorted(groups, reverse=True)
    ]


def _scales(module: nn.Module, layer_decay: float) -> dict[int, float]:
    """Each parameter's factor: 1 above the blocks, less with each block below, and least for what lies under them.

    The blocks are the longest list or sequence of modules that is within no other, as experts are within a block, and
    they have most of the weights but embeddings; what is registered before them lies below them.
    """
    lists = {name: part for name, part in outermost_lists(module).items() if 2 * _size(part) >= _size(module)}
    name = max(lists, key=lambda name: len(lists[name]), default=None)
    if name is None:
        raise UserError(f"layer_decay ({layer_decay}) must be 1 for a backbone without a list of blocks: leave it out")
    places = {child: place for place, (child, _) in enumerate(lists[name].named_children())}
    scales: dict[int, float] = {}
    above = len(lists[name]) + 1
    depth = 0
    for parameter_name, parameter in module.named_parameters():
        if parameter_name.startswith(f"{name}."):
            depth = places[parameter_name.removeprefix(f"{name}.").split(".")[0]] + 1
        elif depth:
            depth = above
        scales[id(parameter)] = layer_decay ** (above - depth)
    return scales


def outermost_lists(module: nn.Module) -> dict[str, Any]:
    """Lists and sequences of modules that are within no other, by name."""
    lists: dict[str, Any] = {}
    for name, part in module.named_modules():
        is_list = isinstance(part, nn.ModuleList | nn.Sequential)
        if is_list and not name.startswith(tuple(f"{outer}." for outer in lists)):
            lists[name] = part
    return lists


def _size(module: nn.Module) -> int:
    """Numbers in a module's weights but embeddings."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    return sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in embeddings)


class MuonAdamW(Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for weight matrices, AdamW for the rest.

    Matrices are the parameters of two dimensions that ``parameter_groups`` lets decay, so not embeddings. Both are
    torch's own; one schedule scales both learning rates.

    Args:
        params: What ``parameter_groups`` gives.
        lr: Peak learning rate of the matrices; a step's root mean square is this over the square root of the columns.
        momentum: Of Muon.
        adamw_lr: Peak learning rate of embeddings, norms and biases.
        betas: Of AdamW.
        weight_decay: Of the matrices.

    Raises:
        UserError: If no parameter is a matrix that may decay.
    """

    def __init__(
        self,
        params: Iterable,  # type: ignore[type-arg]  # jsonargparse reads it as it stands
        lr: float = 0.02,
        momentum: float = 0.95,
        adamw_lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        """Shares the groups out."""
        groups: list[dict[str, Any]] = list(params)
        matrices = [p for group in groups if "weight_decay" not in group for p in group["params"] if p.ndim == 2]
        chosen = set(matrices)
        others = [p for group in groups for p in group["params"] if p not in chosen]
        if not matrices:
            raise UserError("MuonAdamW needs weight matrices, and the model has none: use torch.optim.AdamW")
        muon = torch.optim.Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self._parts: list[Optimizer] = [muon]
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=adamw_lr, betas=betas, weight_decay=0.0))
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both; they work on this optimiser's groups and state, which a checkpoint may have replaced."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            if isinstance(part, torch.optim.Muon) and isinstance(group["params"][0], DTensor):
                self._step_whole(part, group)
            else:
                part.step()
        return loss

    def _step_whole(self, muon: torch.optim.Muon, group: dict[str, Any]) -> None:
        """Of matrices shared out: each process puts them together one by one, as Muon needs, and keeps its part."""
        for matrix in group["params"]:
            if matrix.grad is None:
                continue
            whole, own = whole_of(matrix), self.state[matrix]
            whole.grad = whole_of(matrix.grad)
            muon.param_groups = [{**group, "params": [whole]}]
            muon.state = defaultdict(dict, {whole: {name: whole_of(value) for name, value in own.items()}})
            muon.step()  # type: ignore[no-untyped-call]
            matrix.copy_(part_of(whole, matrix))
            own.update({name: part_of(value, matrix) for name, value in muon.state[whole].items()})


class StepSchedule(LRScheduler):
    """A schedule of optimiser steps whose learning rates are the peaks times a factor of the step alone.

    Args:
        optimizer: Its learning rates are the peaks.
        total_steps: Optimiser steps of the whole run.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        """Sets the learning rate of step 0."""
        self.total_steps = total_steps
        super().__init__(optimizer)

    @abstractmethod
    def factor(self, step: int) -> float:
        """Of the peak, in a step counted from 0."""

    def get_lr(self) -> list[float | Tensor]:
        """Learning rates of the current step."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Only where it stands: lengths and peaks are the configuration's, also when a run is resumed."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def stand_at(self, step: int) -> None:
        """Goes on from this step, with the learning rates that a run of this configuration has there."""
        self.last_epoch = step
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate


class Warmup(StepSchedule):
    """Linear warm-up, then a fall that a subclass gives the form of, per step.

    Args:
        optimizer: Its learning rates are the peaks.
        total_steps: Optimiser steps of the whole run; comes from the trainer.
        warmup_steps: Optimiser steps until the peak; fewer than the run has.
        final_ratio: Learning rate at the end, as a fraction of the peak.

    Raises:
        UserError: If the warm-up is not shorter than the run, or final_ratio is outside [0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 100, final_ratio: float = 0.0
    ) -> None:
        """Sets the learning rate of step 0."""
        if not 0 <= warmup_steps < total_steps:
            raise UserError(
                f"warmup_steps ({warmup_steps}) must be at least 0 and less than the run's {total_steps} optimiser "
                f"steps: set --model.schedule.warmup_steps={total_steps // 10} or train longer"
            )
        if not 0 <= final_ratio <= 1:
            raise UserError(f"final_ratio ({final_ratio}) must be between 0 and 1")
        self.warmup_steps, self.final_ratio = warmup_steps, final_ratio
        super().__init__(optimizer, total_steps)

    def factor(self, step: int) -> float:
        """The first step already has one, the last is just above the end."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.final_ratio + (1 - self.final_ratio) * self.falling(progress)

    @abstractmethod
    def falling(self, progress: float) -> float:
        """From 1 to 0, after which part of the steps behind the warm-up."""


class WarmupCosine(Warmup):
    """Linear warm-up, then half a cosine, per step (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983)."""

    def falling(self, progress: float) -> float:
        """Half a cosine."""
        return _falling(progress)


class WarmupLinear(Warmup):
    """Linear warm-up, then a straight line down, per step, as transformers' trainers have it by default."""

    def falling(self, progress: float) -> float:
        """A straight line."""
        return 1 - progress


class OneCycle(StepSchedule):
    """Half a cosine up, half a cosine down to almost nothing, per step (Smith & Topin 2017, https://arxiv.org/abs/1708.07120).

    Torch's OneCycleLR of cosines, whose momentum stays as it is.

    Args:
        optimizer: Its learning rates are the peaks.
        total_steps: Optimiser steps of the whole run; comes from the trainer.
        rising: Part of the run until the peak.
        initial_ratio: Learning rate of the first step, as a fraction of the peak.
        final_ratio: Learning rate of the last step, as a fraction of the peak.

    Raises:
        UserError: If a fraction is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        rising: float = 0.3,
        initial_ratio: float = 0.04,
        final_ratio: float = 4e-6,
    ) -> None:
        """Sets the learning rate of step 0."""
        if not 0 < rising < 1:
            raise UserError(f"rising ({rising}) must be above 0 and below 1")
        for name, ratio in (("initial_ratio", initial_ratio), ("final_ratio", final_ratio)):
            if not 0 <= ratio <= 1:
                raise UserError(f"{name} ({ratio}) must be between 0 and 1")
        self.rising, self.initial_ratio, self.final_ratio = rising, initial_ratio, final_ratio
        super().__init__(optimizer, total_steps)

    def factor(self, step: int) -> float:
        """The peak is 1."""
        last = max(1, self.total_steps - 1)
        top = self.rising * self.total_steps - 1
        if step <= top:
            return 1 - (1 - self.initial_ratio) * _falling(step / max(top, 1e-9))
        progress = min(1.0, (step - top) / max(1e-9, last - top))
        return self.final_ratio + (1 - self.final_ratio) * _falling(progress)


def _falling(progress: float) -> float:
    """Half a cosine, from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))
