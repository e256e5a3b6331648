"""How a quantizer's two passes become operators of torch's: ``torch.ops.quantgap.NAME`` and ``NAME_backward``.

Both passes are written with torch's own operations, for any device and dtype. Where a method's kernels apply they are
used instead; on a GPU, torch.compile makes one kernel of each pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchimpl.kernels import Fused
from torchimpl.quantizers.base import keep_nan, reduce_to, refuse_forward_mode

Overload: TypeAlias = torch._ops.OpOverload
_library = torch.library.Library("quantgap", "FRAGMENT")  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Passes:
    """The two passes of an operator.

    Attributes
    ----------
    inputs : str
        The arguments' part of the operator's schema.
    forward : callable
        ``forward(x, *arguments)``, in torch's own operations; the output has the shape and dtype of x.
    backward : callable
        ``backward(grad, x, *arguments)``, likewise: a gradient for each of the first `differentiable` tensors.
    fused : Fused or None
        Kernels for both.
    differentiable : int
        The other tensors have no gradient.
    """

    inputs: str
    forward: Callable[..., Tensor]
    backward: Callable[..., Sequence[Tensor]]
    fused: Fused | None
    differentiable: int

    def run_forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """Run what is fastest where the arguments are."""
        if self.fused is not None and self.fused.applies(x, arguments):
            return self.fused.run_forward(x, arguments)
        return (_on_gpu(self.forward) if x.is_cuda else self.forward)(x, *arguments)

    def run_backward(self, grad: Tensor, x: Tensor, *arguments: Any) -> Sequence[Tensor]:
        """Run what is fastest where the arguments are."""
        if self.fused is not None and grad.shape == x.shape and self.fused.applies(x, arguments):
            return self.fused.run_backward(grad, x, arguments)
        return (_on_gpu(self.backward) if x.is_cuda else self.backward)(grad, x, *arguments)


_on_gpu = functools.cache(functools.partial(torch.compile, dynamic=True))
_passes: dict[Overload, _Passes] = {}


def operator(
    name: str, backward: Callable[..., Sequence[Tensor]], fused: Fused | None = None, *, gradients: int | None = None
) -> Callable[[Callable[..., Tensor]], Overload]:
    """Register a function as an operator.

    Its first argument is the input x; other tensors are parameters, the rest are numbers. The output has the dtype of
    x. ``backward(grad, *arguments)`` returns a gradient for each of the first `gradients` tensors (by default all of
    them), which are broadcast against x; the tensors themselves are all that is kept for it.

    `backward` gets half precision as float32: slopes within one of 256 levels need more digits, sums over a batch a
    wider range. The backward pass has no derivative: asking for one is an error.
    """

    def in_single_at_least(grad: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        wide = torch.promote_types(x.dtype, torch.float32)
        by_x, *rest = backward(grad.to(wide), x.to(wide), *arguments)
        return by_x.to(x.dtype), *rest

    def register(forward: Callable[..., Tensor]) -> Overload:
        inputs, _ = torch.library.infer_schema(forward, mutates_args=()).split(" -> ")
        passes = _Passes(inputs, forward, in_single_at_least, fused, gradients or inputs.count("Tensor "))
        return _register(name, passes)

    return register


def on_standardized_weights(quantize: Overload, fused: Fused) -> Overload:
    """Register ``NAME_weight(w, scale, *arguments, mean, std)``: ``|scale| quantize((w - mean) / std, *arguments)``.

    The mean and the standard deviation of w have no gradient. The kernels get the arguments after w as they stand.
    """
    passes = _passes[quantize]

    def forward(w: Tensor, scale: Tensor, *arguments: Any) -> Tensor:
        *own, mean, std = arguments
        return passes.forward((w - mean) / std, *own) * scale.abs()

    def backward(grad: Tensor, w: Tensor, scale: Tensor, *arguments: Any) -> Sequence[Tensor]:
        *own, mean, std = arguments
        wide = torch.promote_types(w.dtype, torch.float32)
        grad, standardized = grad.to(wide), (w - mean) / std
        by_scale = grad * passes.forward(standardized, *own) * keep_nan(scale, scale.sign())
        by_standardized, *rest = passes.backward(grad * scale.abs(), standardized.to(wide), *own)
        return (by_standardized / std).to(w.dtype), reduce_to(by_scale, scale), *rest

    inputs = passes.inputs.replace("(Tensor x", "(Tensor w, Tensor scale").replace(")", ", Tensor mean, Tensor std)")
    name = quantize._schema.name.removeprefix("quantgap::")
    return _register(f"{name}_weight", _Passes(inputs, forward, backward, fused, passes.differentiable + 1))


def standardize(w: Tensor) -> Tensor:
    """Weight standardisation over the whole tensor: mean 0, unbiased standard deviation 1, both detached.

    >>> standardize(torch.tensor([1.0, 2.0, 3.0]))
    tensor([-1.,  0.,  1.])
    """
    mean, std = moments(w)
    return (w - mean) / std


def moments(w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of all of w, without gradients."""
    return w.detach().mean(), w.detach().std()


def _register(name: str, passes: _Passes) -> Overload:
    several = passes.differentiable > 1
    returned = f"({', '.join(['Tensor'] * passes.differentiable)})" if several else "Tensor"

    def backward(grad: Tensor, *arguments: Any) -> Tensor | tuple[Tensor, ...]:
        found = passes.run_backward(grad, *arguments)
        own = tuple(g.clone() if g is grad else g for g in found)  # an operator returns nothing that it was given
        return own if several else own[0]

    def like_forward(x: Tensor, *rest: Any) -> Tensor:
        learned = [p for p in rest if isinstance(p, Tensor)][: passes.differentiable - 1]
        return torch.empty_like(sum((p.to(x.dtype) for p in learned), x))

    def like_backward(grad: Tensor, *arguments: Any) -> Tensor | tuple[Tensor, ...]:
        tensors = [value for value in arguments if isinstance(value, Tensor)][: passes.differentiable]
        found = tuple(map(torch.empty_like, tensors))
        return found if several else found[0]

    forward_op = _define(name, f"{passes.inputs} -> Tensor", passes.run_forward, like_forward)
    backward_name = f"{name}_backward"
    backward_op = _define(backward_name, f"(Tensor grad, {passes.inputs[1:]} -> {returned}", backward, like_backward)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Tensor:
            ctx.save_for_backward(*(v for v in arguments if isinstance(v, Tensor)))
            ctx.arguments = [None if isinstance(v, Tensor) else v for v in arguments]
            with torch._C._AutoDispatchBelowAutograd():
                return forward_op(*arguments)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            saved = iter(ctx.saved_tensors)
            arguments = [next(saved) if v is None else v for v in ctx.arguments]
            if torch.is_grad_enabled():  # for a second derivative, which is then refused
                found = backward_op(grad, *arguments)
            else:
                with torch._C._AutoDispatchBelowAutograd():
                    found = backward_op(grad, *arguments)
            grads = iter(found if several else (found,))
            return tuple(next(grads, None) if isinstance(v, Tensor) else None for v in arguments)

    def with_autograd(*arguments: Any) -> Tensor:
        refuse_forward_mode(arguments)
        if torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in arguments):
            if torch._C._are_functorch_transforms_active():
                raise NotImplementedError("torch.func does not differentiate quantizers: use backward()")
            return Differentiable.apply(*arguments)  # type: ignore[no-untyped-call]
        with torch._C._AutoDispatchBelowAutograd():
            return forward_op(*arguments)

    def no_second_derivative(*_: Any) -> None:
        raise RuntimeError(
            f"the backward pass of quantgap::{name} has no derivative of its own: it is what training pretends the "
            "derivative of a rounding to be"
        )

    # What torch.library.register_autograd would do, with less work in every call.
    _library.impl(name, with_autograd, "Autograd")  # type: ignore[no-untyped-call]
    torch.library.register_autograd(f"quantgap::{backward_name}", no_second_derivative, lib=_library)
    _passes[forward_op] = passes
    return forward_op


def _define(name: str, schema: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Overload:
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    _library.impl(name, function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"quantgap::{name}", fake, lib=_library)
    return getattr(torch.ops.quantgap, name).default
