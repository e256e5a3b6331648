"""How a quantizer's passes become operators of torch's: ``torch.ops.quantgap.NAME``, ``_backward`` and ``_integers``.

They are written with torch's own operations, for any device and dtype. Where a method's compiled loops apply these are
used instead; on a GPU, torch.compile makes one kernel of each pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from torchimpl import kernels

Function: TypeAlias = Callable[..., Any]
_library = torch.library.Library("quantgap", "FRAGMENT")  # type: ignore[no-untyped-call]
_on_gpu = functools.cache(functools.partial(torch.compile, dynamic=True))


class Operator:
    """A quantizer's forward pass, which autograd knows the backward pass of, and the integers behind its values.

    Parameters
    ----------
    name : str
        In ``torch.ops.quantgap``.
    forward : callable
        ``forward(x, *arguments)``, typed: x and other tensors, the parameters, then numbers. The output has the dtype
        of x.
    integers : callable
        ``integers(x, *arguments)``: the levels' numbers, in units where the levels are multiples of one, as
        floating-point numbers.
    backward : callable
        ``backward(grad, x, *arguments)``: a gradient for each of the first `gradients` tensors, which are broadcast
        against x. The tensors themselves are all that is kept for it.
    loops : Loops or None
        Compiled loops for both passes.
    gradients : int, optional
        By default there is one for every tensor.
    tables : bool
        Whether the tensors are looked up, or of one element, and none is broadcast against x.

    All three get half precision as float32: slopes within one of 256 levels need more digits, sums over a batch a wider
    range. The backward pass has no derivative: asking for one is an error.
    """

    def __init__(
        self,
        name: str,
        forward: Function,
        integers: Function,
        backward: Function,
        loops: kernels.Loops | None,
        gradients: int | None,
        tables: bool = False,
    ) -> None:
        self._tables = tables
        self._loops, self._forward, self._integers, self._backward = loops, forward, integers, backward
        arguments, _ = torch.library.infer_schema(forward, mutates_args=()).split(" -> ")
        count = gradients or arguments.count("Tensor ")
        returned = f"({', '.join(['Tensor'] * count)})" if count > 1 else "Tensor"
        self._gradients = count
        self._call = _define(name, f"{arguments} -> Tensor", self.run, self._like_forward)
        self._call_integers = _define(
            f"{name}_integers", f"{arguments} -> Tensor", self._run_integers, self._like_forward
        )
        of_backward = f"(Tensor grad, {arguments[1:]} -> {returned}"
        self._call_backward = _define(f"{name}_backward", of_backward, self._laid_out_backward, self._like_backward)
        torch.library.register_autograd(f"quantgap::{name}", self.differentiate, setup_context=_keep, lib=_library)
        torch.library.register_autograd(f"quantgap::{name}_backward", _no_second_derivative(name), lib=_library)

    def __call__(self, x: Tensor, *arguments: Any) -> Tensor:
        """Quantize.

        Raises
        ------
        NotImplementedError
            In forward-mode differentiation, where torch would take the derivative for 0.
        """
        if torch.compiler.is_compiling() or is_traced() or type(x) not in (Tensor, nn.Parameter):
            return self._call(x, *arguments)
        _refuse_tangents((x, *arguments))
        found: Tensor = _Eager.apply(self, x, *arguments)  # type: ignore[no-untyped-call]
        return found

    def integers(self, x: Tensor, *arguments: Any) -> Tensor:
        """The integers behind the values, without gradient."""
        with torch.no_grad():
            return self._call_integers(x, *arguments)

    def run(self, x: Tensor, *arguments: Any) -> Tensor:
        """Quantize without the dispatcher and without autograd."""
        if self._loops is not None and self._loops.apply(x, arguments):
            return self._loops.run_forward(x, arguments)
        return _in_single_at_least(self._forward, x, arguments)

    def _run_integers(self, x: Tensor, *arguments: Any) -> Tensor:
        if self._loops is not None and self._loops.apply(x, arguments):
            return self._loops.run_forward(x, arguments, integers=True)
        return _in_single_at_least(self._integers, x, arguments)

    def _run_backward(self, grad: Tensor, x: Tensor, *arguments: Any) -> Any:
        if self._loops is not None and grad.shape == x.shape and self._loops.apply(x, arguments):
            found: Sequence[Tensor] = self._loops.run_backward(grad.to(x.dtype), x, arguments)
        else:
            wide = torch.promote_types(x.dtype, torch.float32)
            backward = _on_gpu(self._backward) if x.is_cuda else self._backward
            by_x, *rest = backward(grad.to(wide), x.to(wide), *arguments)
            found = (by_x.to(x.dtype), *rest)
        own = tuple(g.clone() if g is grad else g for g in found)  # an operator returns nothing that it was given
        return own if self._gradients > 1 else own[0]

    def _laid_out_backward(self, grad: Tensor, *arguments: Any) -> Any:
        """Run the backward pass; each gradient in the layout that compilers are told, whichever `grad` comes in."""
        found = self._run_backward(grad, *arguments)
        tensors = [value for value in arguments if isinstance(value, Tensor)][: self._gradients]
        own = tuple(map(_laid_out, found if self._gradients > 1 else (found,), tensors))
        return own if self._gradients > 1 else own[0]

    def _like_forward(self, x: Tensor, *arguments: Any) -> Tensor:
        learned = [p for p in arguments if isinstance(p, Tensor)][: 0 if self._tables else self._gradients - 1]
        return torch.empty_like(sum((p.to(x.dtype) for p in learned), x))

    def _like_backward(self, grad: Tensor, *arguments: Any) -> Any:
        tensors = [value for value in arguments if isinstance(value, Tensor)][: self._gradients]
        found = tuple(map(torch.empty_like, tensors))
        return found if self._gradients > 1 else found[0]

    def differentiate(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return a gradient, or None, for each argument of the forward pass that `ctx` belongs to."""
        saved = iter(ctx.saved_tensors)
        arguments = [next(saved) if v is None else v for v in ctx.arguments]
        # Plain tensors can do without the dispatcher; but with it a second derivative is refused.
        direct = type(grad) is Tensor and not torch.is_grad_enabled()
        found = (self._run_backward if direct else self._call_backward)(grad, *arguments)
        grads = iter(found if self._gradients > 1 else (found,))
        return tuple(next(grads, None) if v is None else None for v in ctx.arguments)


def operator(
    name: str, *, integers: Function, backward: Function, gradients: int | None = None, tables: bool = False
) -> Callable[[Function], Operator]:
    """Make an `Operator` of a forward pass; its loops are those in ``torchimpl.kernels`` for the method's file."""

    def register(forward: Function) -> Operator:
        loops = kernels.find(forward.__module__.rpartition(".")[2], name)
        return Operator(name, forward, integers, backward, loops, gradients, tables)

    return register


def _in_single_at_least(function: Function, x: Tensor, arguments: Sequence[Any]) -> Tensor:
    function = _on_gpu(function) if x.is_cuda else function
    out: Tensor = function(x.to(torch.promote_types(x.dtype, torch.float32)), *arguments)
    return out.to(x.dtype)


def _laid_out(found: Tensor, like: Tensor) -> Tensor:
    """Return `found`, summed over what was broadcast, with its elements where `torch.empty_like` has them."""
    found = found.sum_to_size(like.shape)
    strides = torch.empty_like(like, device="meta").stride()
    return found if found.stride() == strides else torch.empty_like(like).copy_(found)


def is_traced() -> bool:
    """Whether `torch.jit.trace` is recording."""
    return torch._C._get_tracing_state() is not None


class _Eager(torch.autograd.Function):
    """The operator as `register_autograd` makes it, with less work in every call: for plain tensors, not compiled."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, *arguments: Any) -> Tensor:
        ctx.operator = operator
        _keep(ctx, arguments, None)
        return operator.run(*arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.operator.differentiate(ctx, *grads)


def _refuse_tangents(arguments: Sequence[Any]) -> None:
    if any(isinstance(v, Tensor) and forward_ad.unpack_dual(v).tangent is not None for v in arguments):  # type: ignore[no-untyped-call]
        raise NotImplementedError("quantizers have no forward-mode derivative: use backward()")


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor | None) -> None:
    ctx.save_for_backward(*(v for v in inputs if isinstance(v, Tensor)))
    ctx.arguments = [None if isinstance(v, Tensor) else v for v in inputs]


def _no_second_derivative(name: str) -> Function:
    def refuse(*_: Any) -> None:
        raise RuntimeError(
            f"the backward pass of quantgap::{name} has no derivative of its own: it is what training pretends the "
            "derivative of a rounding to be"
        )

    return refuse


def _define(name: str, schema: str, function: Function, fake: Function) -> Any:
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    _library.impl(name, function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"quantgap::{name}", fake, lib=_library)
    return getattr(torch.ops.quantgap, name).default
