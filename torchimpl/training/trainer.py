"""One harness for every table: trains a network by a recipe, and says what came of each epoch.

It reads from top to bottom: `train` builds the network, gives quantizers their first values, and makes steps. What is
left to the caller is where images come from and where the state is kept (`torchimpl.training.store`).

On a CPU a seed fixes a run to the bit, on one machine and number of threads, whether it was interrupted or not: all
that chance decides in an epoch depends on the seed and the epoch's number only. On a GPU that is so as far as torch's
operations there always give the same bits, which not all of them do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from torchimpl.calibration import calibrate
from torchimpl.checkpoints import NORMALIZATIONS
from torchimpl.data.cifar10 import Split
from torchimpl.evaluation import Count, count_correct
from torchimpl.layers import QuantizedLayer
from torchimpl.models import ACTIVATIONS, NETWORKS
from torchimpl.optimization import parameter_groups
from torchimpl.quantizers.base import SETTINGS, Quantizer, ranks
from torchimpl.training.batches import Batches, Loader
from torchimpl.training.recipe import Recipe


class Device(NamedTuple):
    """Where a network is trained, and how.

    Attributes
    ----------
    name : str
        Of torch's: cpu, cuda, cuda:1, ...
    compiled : bool
        Whether steps run through `torch.compile`, which takes a minute first. Bits are others then.
    """

    name: str = "cpu"
    compiled: bool = False

    def __str__(self) -> str:
        """Name it.

        >>> str(Device("cuda", compiled=True))
        'cuda, compiled'
        """
        return f"{self.name}{', compiled' * self.compiled}"


CPU = Device()


def as_device(device: Device | str | torch.device) -> Device:
    """Return a device of ours, also of torch's names: not compiled then."""
    return device if isinstance(device, Device) else Device(str(device))


@dataclass
class State:
    """Where a run stands after an epoch: everything that the next ones depend on, and what was found so far.

    Attributes
    ----------
    epochs : int
        That are done.
    model : mapping of str to Tensor
        State of the network.
    optimizers : list of mapping
        States of the two optimizers.
    loss : list of float
        Mean training loss of each epoch.
    correct, undefined : list of int
        Test images that were right after each epoch, and those without an answer (a logit was NaN or infinite).
    diverged : str
        Why the run ended early, else empty.
    seconds : float
        That the epochs took, together.
    """

    epochs: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)
    optimizers: list[Any] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    correct: list[int] = field(default_factory=list)
    undefined: list[int] = field(default_factory=list)
    diverged: str = ""
    seconds: float = 0.0


def build(recipe: Recipe, start: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build a recipe's network: with first weights by its seed, or those of a full-precision network.

    Parameters
    ----------
    recipe : Recipe
    start : mapping of str to Tensor, optional
        State of the full-precision network of the same shape.

    Raises
    ------
    ValueError
        If `start` is of another network.

    Examples
    --------
    >>> from torchimpl.training.recipe import recipe
    >>> type(build(recipe("embedded", method="daq", bits=(1, 1))).layer1[0].conv1).__name__
    'QuantConv2d'
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.network in NETWORKS:
            activation = ACTIVATIONS[recipe.activation]
            network = NETWORKS[recipe.network]
            model: nn.Module = network(recipe.method, recipe.bits, activation=activation, **recipe.options)
        else:
            module, _, function = recipe.network.partition(":")
            model = getattr(importlib.import_module(module), function)(**recipe.options)
    if start is not None:
        missing, unexpected = model.load_state_dict(start, strict=False)
        other = [*unexpected, *(name for name in missing if name.endswith(("weight", "bias", "running_mean")))]
        if other:
            raise ValueError(f"the full-precision network is another: only one of the two has {', '.join(other[:3])}")
    return model


def channels_last(model: nn.Module) -> nn.Module:
    """Lay convolutions out with channels last, which is faster; inputs must be, too."""
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    return model


def optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """SGD for the network, Adam without weight decay for quantizers and scales, if there are any."""
    network, quantizers = (group["params"] for group in parameter_groups(model))
    found: list[torch.optim.Optimizer] = [
        torch.optim.SGD(network, recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    ]
    if quantizers:
        found.append(torch.optim.Adam(quantizers, recipe.quantizer_rate))
    return found


def train(
    recipe: Recipe,
    training: Split | Loader,
    test: Split,
    *,
    start: Mapping[str, Tensor] | None = None,
    state: State | None = None,
    device: Device | str | torch.device = CPU,
    accumulate: int = 1,
    keep: Callable[[State], None] = lambda state: None,
    progress: Callable[[float], None] = lambda share: None,
    pause: Callable[[], None] = lambda: None,
) -> State:
    """Train a network and test it after each epoch.

    Parameters
    ----------
    recipe : Recipe
    training : Split or Loader
        Images in memory; those that are not come from a loader, each rank's own part of every batch.
    test : Split
    start : mapping of str to Tensor, optional
        State of a full-precision network to start from; by default weights are new.
    state : State, optional
        Of the same run, to be gone on with.
    device : Device or torch's
    accumulate : int
        Parts of a batch whose gradients are added up, for less memory. Normalisations see the parts.
    keep : callable
        Is given the state after each epoch.
    progress : callable
        Is told the share of the run that is done.
    pause : callable
        Called before each step; it may wait.

    Returns
    -------
    State
        At the end. A run whose loss is not finite ends there, and says so: it is a result.
    """
    device = as_device(device)
    there = torch.device(device.name)
    state = State() if state is None else state
    rank = torch.distributed.get_rank() if ranks() > 1 else 0
    batches = Batches(training, recipe, there, rank, ranks()) if isinstance(training, Split) else training
    model = channels_last(build(recipe, start).to(there))
    if state.model:
        model.load_state_dict(state.model)
    else:
        calibrate(model, next(batches.epoch(0))[0])
    optimize = optimizers(model, recipe)
    for optimizer, kept in zip(optimize, state.optimizers, strict=bool(state.optimizers)):
        optimizer.load_state_dict(kept)
    whole = model
    if device.compiled:
        torch.compiler.reset()  # what was compiled before, of other networks, counts towards a limit
        # Not dynamic: a last, smaller batch does not change the code of the others.
        whole = cast(nn.Module, torch.compile(model, dynamic=False))
    if ranks() > 1:
        whole = DistributedDataParallel(whole)
    steps = recipe.epochs * len(batches)
    while state.epochs < recipe.epochs and not state.diverged:
        begun = time.perf_counter()
        torch.manual_seed(recipe.seed * 100_003 + state.epochs)  # for networks that draw numbers themselves
        model.train()
        losses = []
        for i, (images, labels) in enumerate(batches.epoch(state.epochs)):
            pause()
            done = state.epochs * len(batches) + i
            schedule(model, optimize, recipe, done / steps)
            losses.append(step(whole, model, optimize, recipe, images, labels, accumulate))
            progress(done / steps)
        loss = float(mean_over_ranks(torch.stack(losses).mean()))
        set_progress(model, (state.epochs + 1) / recipe.epochs)
        correct, undefined = test_accuracy(model, test, recipe)
        if not math.isfinite(loss):
            where = f"of epoch {state.epochs + 1}"
            state.diverged = f"the mean loss {where} is {loss:g}"  # on another rank
            if steps_of_own := [i for i, each in enumerate(losses) if not bool(each.isfinite())]:
                first = steps_of_own[0]
                state.diverged = f"the loss is {float(losses[first]):g} at step {first + 1} {where}"
        state.epochs += 1
        state.seconds += time.perf_counter() - begun
        state.loss.append(loss)
        state.correct.append(correct)
        state.undefined.append(undefined)
        state.model = model.state_dict()
        state.optimizers = [optimizer.state_dict() for optimizer in optimize]
        if rank == 0:
            keep(state)
    progress(1.0)
    return state


def step(
    whole: nn.Module,
    model: nn.Module,
    optimize: list[torch.optim.Optimizer],
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    accumulate: int = 1,
) -> Tensor:
    """Make one step: forward, backward, update. Returns the loss, which is not waited for."""
    for optimizer in optimize:
        optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=images.device)
    parts = list(zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True))  # may be fewer than asked for
    for i, (x, y) in enumerate(parts):
        last = i + 1 == len(parts)  # where ranks meet
        with whole.no_sync() if isinstance(whole, DistributedDataParallel) and not last else nullcontext():
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = whole(x)
            loss = F.cross_entropy(logits.float(), y) * (len(x) / len(images))
            if recipe.penalty:
                loss = loss + recipe.penalty / len(parts) * penalty(model)
            loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    for optimizer in optimize:
        optimizer.step()
    return total


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of all ranks' values: all go on, or none does."""
    if ranks() > 1:
        torch.distributed.all_reduce(value)
    return value / ranks()


def penalty(model: nn.Module) -> Tensor:
    """Sum of the terms that the quantizers add to the loss."""
    return torch.stack([part.penalty() for part in model.modules() if isinstance(part, Quantizer)]).sum()


def schedule(model: nn.Module, optimize: list[torch.optim.Optimizer], recipe: Recipe, share: float) -> None:
    """Set rates by a cosine that ends at 0 (Section 4.1), and tell the quantizers how much of the training is over."""
    factor = (1 + math.cos(math.pi * share)) / 2
    for optimizer, rate in zip(optimize, (recipe.rate, recipe.quantizer_rate), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
    set_progress(model, share)


def set_progress(model: nn.Module, share: float) -> None:
    """Tell the quantizers how much of the training is over."""
    for part in model.modules():
        if isinstance(part, Quantizer):
            part.set_progress(share)


def test_accuracy(model: nn.Module, test: Split, recipe: Recipe) -> Count:
    """Test a network: quantizers round."""
    mean, std = NORMALIZATIONS[recipe.normalize]
    channels = test.images.shape[1]
    return count_correct(model, test.images, test.labels, mean=mean[:channels], std=std[:channels])


class AsInTraining(nn.Module):
    """A network whose quantizers compute in test mode what they do in training: Table 6's column "DASR"."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> AsInTraining:
        """Put all but the quantizers and their layers into a mode; `eval` comes here, too."""
        super().train(mode)
        for part in self.model.modules():
            if isinstance(part, Quantizer | QuantizedLayer):
                part.training = True
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Call the network."""
        return self.model(x)


REHEARSED = 20  # steps
REHEARSED_IMAGES = 512


class Rehearsal(NamedTuple):
    """What came of a rehearsal.

    Attributes
    ----------
    digest : str
        sha256 of all parameters, statistics and states of optimizers at the end.
    loss : float
        Mean over the steps.
    correct : int
        Of the first 512 test images.
    as_in_training : int
        The same, where quantizers compute what they do in training.
    first_loss : float
        Of the first batch, before any step, in float32, where rounding moves it least.
    gradient : float
        Norm of that loss's gradient for the network's parameters; that for the quantizers' is mostly rounding.
    """

    digest: str
    loss: float
    correct: int
    as_in_training: int
    first_loss: float
    gradient: float


def rehearsal(recipe: Recipe, training: Split, test: Split) -> Rehearsal:
    """Make a run's first steps, from new weights, with the whole schedule compressed into one epoch of 20 steps.

    It takes seconds, and tells whether what computes a step, an epoch and the accuracies still computes the same; not
    what the recipe says beside, such as the number of epochs and the start.
    """
    short = dataclasses.replace(recipe, epochs=1)
    count = REHEARSED * recipe.batch
    few = Split(training.images[:count], training.labels[:count], training.sha256)
    few_of_test = Split(test.images[:REHEARSED_IMAGES], test.labels[:REHEARSED_IMAGES], test.sha256)
    state = train(short, few, few_of_test)
    model = build(short)
    model.load_state_dict(state.model)
    as_in_training, _ = test_accuracy(AsInTraining(model), few_of_test, short)
    return Rehearsal(
        digest([state.model, state.optimizers]),
        state.loss[-1],
        state.correct[-1],
        as_in_training,
        *first_step(dataclasses.replace(short, precision="float32"), few),
    )


def first_step(recipe: Recipe, training: Split) -> tuple[float, float]:
    """Return the loss of a run's first batch, from new weights, and the norm of its gradient for the network."""
    images, labels = next(Batches(training, recipe, torch.device("cpu")).epoch(0))
    model = channels_last(build(recipe))
    calibrate(model, images)
    set_progress(model.train(), 0.0)
    loss = step(model, model, [], recipe, images, labels)
    grads = [p.grad for p in parameter_groups(model)[0]["params"] if p.grad is not None]
    return float(loss), math.sqrt(sum(float((grad.double() ** 2).sum()) for grad in grads))


def digest(content: Any) -> str:
    """Return the sha256 of nested mappings and sequences of tensors and plain values, by their bits.

    What a quantizer's state says in words, its settings, is left out.
    """
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)} ".encode())
            found.update(
                value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
                if value.dim()
                else repr(value.item()).encode()
            )
        elif isinstance(value, Mapping):
            for key in sorted((key for key in value if not str(key).endswith(SETTINGS)), key=str):
                found.update(f"{key}: ".encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for each in value:
                add(each)
        else:
            found.update(f"{value!r} ".encode())

    add(content)
    return found.hexdigest()
