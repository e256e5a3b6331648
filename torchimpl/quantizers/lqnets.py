"""LQ-Nets as a module: a basis that follows the data. Formulas and their sources are in `reference.lqnets`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reference import grid
from reference.lqnets import CUTOFF, MOMENTUM, QUARTILE, RIDGE
from torchimpl.quantizers.base import Quantizer, as_float, keep_nan, operator, parameter_shape


def _backward(grad: Tensor, x: Tensor, values: Tensor, top: Tensor, clip: bool):  # type: ignore[no-untyped-def]
    return (keep_nan(x, torch.where(x > top, 0.0, grad) if clip else grad),)


@operator("lqnets", _backward, gradients=1)
def lqnets_straight_through(x: Tensor, values: Tensor, top: Tensor, clip: bool) -> Tensor:
    """Return `values`, the levels that were found for `x`; the gradient goes to `x`, with `clip` up to `top`."""
    return torch.where(x.isnan(), x, values)


class LQNets(Quantizer):
    """Quantization to the sums of a basis, which is fitted to the data (LQ-Nets, Zhang et al., ECCV 2018).

    In training mode a batch is quantized with the basis as it stands; then the basis makes one step of QEM. Every
    forward pass in training mode does so, with or without gradients, and so does every access of a parametrized weight
    in training mode: the result of the next is another one. A channel whose data are not finite leaves its basis as it
    is.

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

    >>> quantizer = LQNets(2, "activation").eval()
    >>> quantizer(torch.tensor([-1.0, 0.5, 9.0]))  # levels start at multiples of 0.6745 * 2/3
    tensor([0.0000, 0.4497, 1.3490])
    """

    method = "lqnets"
    basis: Tensor
    follows_data = True

    def __init__(
        self, bits: int | None, role: str = "activation", *, variant: str | None = None, shape: tuple[int, ...] = ()
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.shape = parameter_shape(shape)
        self.channels = math.prod(self.shape)
        basis = torch.ones(self.bits or 1, *self.shape)
        self.register_buffer("basis", basis)
        if self.role == "activation":
            basis.copy_(self._first_basis(torch.full(self.shape, 2 / (2 ** len(basis) - 1))))

    def ready_at_once(self) -> bool:
        """Whether the first basis needs no data: that of activations."""
        return self.role == "activation"

    def _first_basis(self, scale: Tensor) -> Tensor:
        powers = 2.0 ** torch.arange(len(self.basis), device=scale.device)
        return powers.reshape(-1, *[1] * len(self.shape)) * (QUARTILE * scale)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the basis for weights from their standard deviation; activations are not looked at.

        Raises
        ------
        ValueError
            If weights (in any channel) are fewer than two, all equal, or not finite.
        """
        if self.role == "weight":
            self._check_channels(x)
            rows = x.reshape(self.channels, -1).double()
            spread = rows.shape[1] > 1 and bool((rows.amin(1) < rows.amax(1)).all())  # equal: the mean may be rounded
            deviation = rows.std(1) if spread else rows.new_zeros(self.channels)
            if not bool(((deviation > 0) & (deviation < math.inf)).all()):
                raise grid.refuse("standard deviation of the weights", deviation.tolist(), "positive and finite")
            self.basis.copy_(self._first_basis(deviation.reshape(self.shape) / 2 ** (len(self.basis) - 1)))
        self.mark_initialized()

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the basis as it stands; in training mode, fit it then."""
        values, order = self._levels(x.dtype)
        q = self._search(x.detach(), values)
        out = lqnets_straight_through(x, self._pick(values, q), values[-1], self.role == "activation")
        if self.training and x.numel():
            self._fit(x.detach(), self._pick(order, q))
        return out

    def check_parameters(self) -> None:
        """Raise ValueError if a basis is not finite, or 0."""
        if not bool(self._usable(self.basis).all()):
            raise grid.refuse("basis", self.basis.tolist(), "finite, with an element that is not 0")

    def encode(self, x: Tensor) -> Tensor:
        """Codes: how many transition points are below."""
        return self._search(x, self._levels(x.dtype)[0]).to(x.dtype)

    def values_of(self, codes: Tensor, x: Tensor | None) -> Tensor:
        """Values of codes. Raises ValueError if there is no such level."""
        q = as_float(codes, self.basis)
        top = 2 ** len(self.basis) - 1
        if not bool(((q >= 0) & (q <= top)).all()):
            raise grid.refuse("codes", q.tolist(), f"whole numbers from 0 to {top}")
        return self._pick(self._levels(q.dtype)[0], q.long())

    @staticmethod
    def _usable(basis: Tensor) -> Tensor:
        return basis.isfinite().all(0) & (basis != 0).any(0)

    def _levels(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Levels, ascending along the first axis, and each one's encoding as a binary number; NaN if basis is unusable.

        The sums begin at 0 and take the first element first: so the encoding's lowest digit is the first element's.
        """
        basis = self.basis.to(dtype)
        basis = torch.where(self._usable(basis), basis, torch.full_like(basis, torch.nan))
        values = torch.zeros_like(basis[:1])
        for v in basis:
            values = torch.cat([values - v if self.role == "weight" else values, values + v])
        found, order = torch.sort(values, dim=0, stable=True)
        return found, order

    def _check_channels(self, x: Tensor) -> None:
        """Raise ValueError unless the first axis of `x` has the channels."""
        if self.shape and (x.dim() != len(self.shape) or x.shape[0] != self.shape[0]):
            admitted = f"({self.shape[0]}, ...), with {len(self.shape)} axes, as the basis has"
            raise grid.refuse("shape of x", tuple(x.shape), admitted)

    def _search(self, x: Tensor, values: Tensor) -> Tensor:
        self._check_channels(x)
        points = ((values[:-1] + values[1:]) / 2).reshape(len(values) - 1, self.channels).T.contiguous()
        return torch.searchsorted(points, x.reshape(self.channels, -1).contiguous()).reshape(x.shape)

    def _pick(self, table: Tensor, q: Tensor) -> Tensor:
        table = table.reshape(len(table), *[1] * (q.dim() - len(self.shape)), *self.shape)
        return torch.take_along_dim(table, q.unsqueeze(0), 0).squeeze(0)

    @torch.no_grad()
    def _fit(self, x: Tensor, encoding: Tensor) -> None:
        """Make a step of QEM; `encoding` has the digits of B, the lowest bit for the first element of the basis.

        In float64, as the solution has up to 1/RIDGE times the errors of the sums, where B^T B is nearly singular.
        """
        b = len(self.basis)
        digits = (encoding.reshape(self.channels, -1, 1) >> torch.arange(b, device=x.device)) & 1
        B = (2 * digits - 1 if self.role == "weight" else digits).double()
        gram, moment = B.mT @ B, B.mT @ x.reshape(self.channels, -1, 1).double()
        old = self.basis.reshape(b, self.channels).T.unsqueeze(-1).double()
        if self.variant == "paper":
            solution = torch.linalg.pinv(gram, rtol=CUTOFF, hermitian=True) @ moment
        else:
            ridge = RIDGE * torch.eye(b, dtype=gram.dtype, device=gram.device)
            solution = torch.linalg.solve_ex(gram + ridge, moment + RIDGE * old)[0]
        new = (MOMENTUM * old + (1 - MOMENTUM) * solution).squeeze(-1).T.reshape(self.basis.shape)
        self.basis.copy_(torch.where(new.isfinite().all(0), new, self.basis))


QUANTIZER = LQNets
