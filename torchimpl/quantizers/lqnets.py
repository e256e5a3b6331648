"""LQ-Nets as a module: a basis that follows the data. Formulas and their sources are in `reference.lqnets`."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from reference import checks
from reference.lqnets import CUTOFF, MOMENTUM, QUARTILE, RIDGE
from torchimpl.kernels import lqnets as loops
from torchimpl.operators import operator
from torchimpl.quantizers.base import Quantizer, as_float, is_calibrating, keep_nan, parameter_shape, ranks, wide


def _backward(grad: Tensor, x: Tensor, levels: Tensor, points: Tensor, clip: bool):  # type: ignore[no-untyped-def]
    return (keep_nan(x, torch.where(x > levels[-1], 0.0, grad) if clip else grad),)


def _integers(x: Tensor, levels: Tensor, points: Tensor, clip: bool) -> Tensor:
    return torch.where(x.isnan() | levels[0].isnan(), torch.nan, search(x, points).to(x.dtype))


@operator("lqnets", integers=_integers, backward=_backward, gradients=1)
def lqnets_quantize(x: Tensor, levels: Tensor, points: Tensor, clip: bool) -> Tensor:
    """Quantize to `levels`, ascending along their first axis; from one to the next at `points`.

    The gradient goes to `x`, with `clip` up to the highest level.
    """
    return torch.where(x.isnan(), x, pick(levels, search(x, points)))


@torch.library.custom_op("quantgap::lqnets_tally", mutates_args=())
def lqnets_tally(x: Tensor, points: Tensor) -> Tensor:
    """Count the elements of each code, and add them up: float64, of shape (channels, codes, 2)."""
    sums = loops.tally(x, points)
    if sums is not None:
        return torch.from_numpy(sums).view(1, -1, 2)
    x = x.to(wide(x))
    channels, top = math.prod(points.shape[1:]), len(points)
    found = torch.zeros(channels * (top + 1), 2, dtype=torch.float64, device=x.device)
    code = search(x, points).reshape(channels, -1) + (top + 1) * torch.arange(channels, device=x.device).unsqueeze(1)
    values = x.reshape(-1).double()
    found.index_add_(0, code.reshape(-1), torch.stack([torch.ones_like(values), values], 1))
    return found.view(channels, top + 1, 2)


@lqnets_tally.register_fake
def _(x: Tensor, points: Tensor) -> Tensor:
    return x.new_empty(math.prod(points.shape[1:]), len(points) + 1, 2, dtype=torch.float64)


def search(x: Tensor, points: Tensor) -> Tensor:
    """How many transition points are below each element; the first axis of `x` has the channels, if there are any."""
    channels = math.prod(points.shape[1:])
    ascending = points.reshape(len(points), channels).T.contiguous()
    return torch.searchsorted(ascending, x.reshape(channels, -1).contiguous()).reshape(x.shape)


def pick(table: Tensor, q: Tensor) -> Tensor:
    """Element q along the first axis of `table`, whose other axes are those of the channels."""
    table = table.reshape(len(table), *[1] * (q.dim() - table.dim() + 1), *table.shape[1:])
    return torch.take_along_dim(table, q.unsqueeze(0), 0).squeeze(0)


PASSES = 8  # forward passes of one module in a step that activation checkpointing may repeat


class LQNets(Quantizer):
    """Quantization to the sums of a basis, which is fitted to the data (LQ-Nets, Zhang et al., ECCV 2018).

    In training mode a batch is quantized with the basis as it stands; then the basis makes one step of QEM. Every
    forward pass in training mode does so, with or without gradients, and so does every access of a parametrized weight
    in training mode: the result of the next may be another one. A pass that activation checkpointing repeats does not:
    it has the basis of the pass that it repeats. Several ranks fit one basis, to the activations of all; as their sums
    are added up in every forward pass in training mode, each rank must make as many. A channel whose data are not
    finite leaves its basis as it is, and so does, in "released", one of activations that do not use all of it
    (`reference.lqnets`).

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; roles "weight" and "activation". Variants are "released" and "paper" (see `reference.lqnets`).
    shape : tuple of int
        () for one basis, (C, 1, ...), with as many axes as the input, for one for each element of its first axis.

    Attributes
    ----------
    basis : Tensor, of shape (b, *shape)
        Saved, but not learned by gradient.
    steps : Tensor of int64, of shape `shape`
        How many steps of QEM have been made; "released" averages over them. Saved.

    >>> quantizer = LQNets(2, "activation").eval()
    >>> quantizer(torch.tensor([-1.0, 0.5, 9.0]))  # levels start at multiples of 0.6745 * 2/3
    tensor([0.0000, 0.4497, 1.3490])
    """

    method = "lqnets"
    operator = lqnets_quantize
    basis: Tensor
    steps: Tensor
    is_integral = False  # a codebook

    def __init__(
        self, bits: int, role: str = "activation", *, variant: str | None = None, shape: tuple[int, ...] = ()
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.shape = parameter_shape(shape)
        self.channels = math.prod(self.shape)
        basis = torch.ones(self.bits, *self.shape)
        self.register_buffer("basis", basis)
        self.register_buffer("steps", torch.zeros(self.shape, dtype=torch.int64))
        self._fits: deque[tuple[Tensor, Tensor]] = deque(maxlen=PASSES)  # tallies of the last batches, and their bases
        if self.role == "activation":
            basis.copy_(self._first_basis(torch.full(self.shape, 2 / (2 ** len(basis) - 1))))

    def ready_at_once(self) -> bool:
        """Whether the first basis needs no data: that of activations."""
        return self.role == "activation"

    def _first_basis(self, scale: Tensor) -> Tensor:
        powers = 2.0 ** torch.arange(len(self.basis), device=scale.device)
        return powers.reshape(-1, *[1] * len(self.shape)) * (QUARTILE * scale)

    def set_first_values(self, x: Tensor) -> None:
        """Set the first basis for weights; activations are not looked at.

        Raises
        ------
        ValueError
            If there are no weights; in "paper", if weights (in any channel) are fewer than two, all equal, or not
            finite.
        """
        if self.role == "weight":
            self._check_channels(x)
            scale = self._deviation(x) if self.variant == "paper" else self._drawn_deviation(x)
            half = 2 ** (len(self.basis) - 1)
            self.basis.copy_(self._first_basis(torch.full_like(self.basis[0], 1.0) * scale / half))
        self.steps.zero_()

    @staticmethod
    def _drawn_deviation(x: Tensor) -> float:
        """The deviation that weights are drawn with, by the kernel's size times the output channels: sqrt(2/n)."""
        if not x.numel():
            raise checks.refuse("shape of x", tuple(x.shape), "without a 0 (there are no weights)")
        return math.sqrt(2 / (x.numel() // x.shape[1] if x.dim() > 1 else x.numel()))

    def _deviation(self, x: Tensor) -> Tensor:
        """Unbiased standard deviation, of the shape of the channels."""
        rows = x.reshape(self.channels, -1).double()
        spread = rows.shape[1] > 1 and bool((rows.amin(1) < rows.amax(1)).all())  # equal: the mean may be rounded
        deviation = rows.std(1) if spread else rows.new_zeros(self.channels)
        if not bool(((deviation > 0) & (deviation < math.inf)).all()):
            raise checks.refuse("standard deviation of the weights", deviation.tolist(), "positive and finite")
        return deviation.reshape(self.shape)

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the basis as it stands; in training mode, fit it then."""
        self._check_channels(x)
        compiling = torch.compiler.is_compiling()
        if self.training and not compiling and torch._C._current_graph_task_id() != -1:
            return self._quantize_again(x)
        levels, points, order = self._levels(wide(x))
        out = lqnets_quantize(x, levels, points, self.role == "activation")
        if self.training and x.numel() and not is_calibrating():
            tally = lqnets_tally(x.detach(), points)
            if not compiling:
                self._fits.append((tally, self.basis.clone()))
            self._fit(self._of_all_ranks(tally), order)
        return out

    def _quantize_again(self, x: Tensor) -> Tensor:
        """Quantize within a backward pass, where activation checkpointing repeats a forward pass: with its basis.

        Which of the last passes it was, if there were several, its tally tells (the last one of those that have it: of
        weights that are used twice in a step, whose bases may differ while their codes do not). The basis was fitted
        then.
        """
        now = self.basis
        try:
            for tally, basis in reversed(self._fits):
                self.basis = basis
                levels, points, _ = self._levels(wide(x))
                if torch.equal(lqnets_tally(x.detach(), points), tally):
                    break
            else:
                self.basis = now
                levels, points, _ = self._levels(wide(x))
        finally:
            self.basis = now
        return lqnets_quantize(x, levels, points, self.role == "activation")

    def _of_all_ranks(self, tally: Tensor) -> Tensor:
        """Add up what the ranks counted in their parts of a batch; they have the weights in common."""
        if self.role == "weight" or ranks() == 1:
            return tally
        torch.distributed.all_reduce(tally := tally.clone())
        return tally

    def arguments(self, x: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Return levels, transition points, and whether gradients end at the highest level."""
        self._check_channels(x)
        levels, points, _ = self._levels(wide(x))
        return levels, points, self.role == "activation"

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError if a basis is not finite, or 0."""
        if not bool(self._usable(self.basis).all()):
            raise checks.refuse("basis", self.basis.tolist(), "finite, with an element that is not 0")

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes. Raises ValueError if there is no such level."""
        q = as_float(codes, self.basis)
        top = 2 ** len(self.basis) - 1
        if not bool(((q >= 0) & (q <= top)).all()):
            raise checks.refuse("codes", q.tolist(), f"whole numbers from 0 to {top}")
        return pick(self._levels(q.dtype)[0], q.long())

    @staticmethod
    def _usable(basis: Tensor) -> Tensor:
        return basis.isfinite().all(0) & (basis != 0).any(0)

    def _levels(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Levels, ascending along the first axis, transition points, and each level's encoding as a binary number.

        Levels are NaN where the basis is unusable. The sums begin at 0 and take the first element first: so the
        encoding's lowest digit is the first element's.
        """
        basis = self.basis.to(dtype)
        values = torch.zeros_like(basis[:1])
        for v in basis:
            values = torch.cat([values - v if self.role == "weight" else values, values + v])
        levels, order = torch.sort(values, dim=0, stable=True)
        levels = torch.where(self._usable(basis), levels, torch.full_like(levels, torch.nan))
        return levels, (levels[:-1] + levels[1:]) / 2, order

    def _check_channels(self, x: Tensor) -> None:
        """Raise ValueError unless the first axis of `x` has the channels."""
        if self.shape and (x.dim() != len(self.shape) or x.shape[0] != self.shape[0]):
            admitted = f"({self.shape[0]}, ...), with {len(self.shape)} axes, as the basis has"
            raise checks.refuse("shape of x", tuple(x.shape), admitted)

    @torch.no_grad()
    def _fit(self, tally: Tensor, encoding: Tensor) -> None:
        """Make a step of QEM; the bits of a level's `encoding` are the digits of B, the lowest for the first element.

        In float64, as the solution has up to 1/RIDGE times the errors of the sums, where B^T B is nearly singular.
        """
        b = len(self.basis)
        by_channel = encoding.reshape(len(encoding), self.channels).T.unsqueeze(-1)
        digits = (by_channel >> torch.arange(b, device=tally.device)) & 1
        B = (2 * digits - 1 if self.role == "weight" else digits).double()
        gram, moment = B.mT @ (tally[..., :1] * B), B.mT @ tally[..., 1:]
        old = self.basis.reshape(b, self.channels).T.unsqueeze(-1).double()
        solution = self._solve(gram, moment, old)
        steps = self.steps.double().reshape(self.channels, 1, 1)
        share = (1 - MOMENTUM) / (1 - MOMENTUM ** (steps + 1) if self.variant == "released" else 1)
        new = ((1 - share) * old + share * solution).squeeze(-1).T.reshape(self.basis.shape)
        made = new.isfinite().all(0)
        self.basis.copy_(torch.where(made, new, self.basis))
        self.steps.add_(made)

    def _solve(self, gram: Tensor, moment: Tensor, old: Tensor) -> Tensor:
        """Return the solution, of the shape (channels, b, 1); NaN where no step is to be made."""
        if self.variant == "paper":
            return torch.linalg.pinv(gram, rtol=CUTOFF, hermitian=True) @ moment
        if self.role == "weight":
            ridge = RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
            return torch.linalg.solve_ex(gram + ridge, moment + RIDGE * old)[0]
        eigenvalues = torch.linalg.eigvalsh(gram)
        regular = eigenvalues[:, :1] > CUTOFF * eigenvalues[:, -1:]
        return torch.where(regular.unsqueeze(-1), torch.linalg.solve_ex(gram, moment)[0], torch.nan)


QUANTIZER = LQNets
