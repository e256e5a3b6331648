"""First values: one batch gives every quantizer its own and changes nothing else; several ranks get the same."""

import copy
import math
import os
import socket
import traceback

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from tests.oracles import check_near, check_same
from tests.torchimpl.modules import PAIRS, every_method, fit, input_role
from tests.torchimpl.test_integers import INTEGRAL
from torchimpl import calibrate, parameter_groups
from torchimpl.conversion import quantize_model, quantize_weight
from torchimpl.layers import QuantConv2d
from torchimpl.quantizers import base, build
from torchimpl.quantizers.base import Quantizer


def network(method, seed=0):
    torch.manual_seed(seed)
    options = {"method": PAIRS[method], "bits": fit(method, (2, 2)), "input_role": input_role(method)}
    activation = nn.ReLU() if input_role(method) == "activation" else nn.Hardtanh()
    parts = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), activation, nn.Dropout(0.2), QuantConv2d(6, 6, 3, **options)]
    return nn.Sequential(*parts, nn.BatchNorm2d(6), activation, QuantConv2d(6, 4, 3, **options))


IMAGES = torch.rand(5, 3, 9, 9, generator=torch.Generator().manual_seed(0))


@every_method
def test_first_values_are_those_of_the_first_batch_in_training(method):
    ours, theirs = network(method), network(method)
    torch.manual_seed(1)
    calibrate(ours, IMAGES)
    if method != "lqnets":  # there the first batch makes a step of QEM as well
        torch.manual_seed(1)
        theirs(IMAGES)
        theirs_state = theirs.state_dict()
        for name, value in ours.state_dict().items():
            if "running" not in name and "batches" not in name:
                check_same(name, value.numpy(), theirs_state[name].numpy())
    assert all(part.has_first_values for part in ours.modules() if hasattr(part, "has_first_values"))
    ours.eval()(IMAGES)


@every_method
@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(method, training):
    model = network(method).train(training)
    model[0].eval()
    modes = [module.training for module in model.modules()]
    quantizers = ("quantizer", "scale")
    before = {
        name: value.clone() for name, value in model.state_dict().items() if not any(q in name for q in quantizers)
    }
    random = torch.get_rng_state()
    assert calibrate(model, IMAGES) is model
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    for name, value in before.items():
        check_same(name, model.state_dict()[name].numpy(), value.numpy())
    again = {name: value.clone() for name, value in model.state_dict().items()}
    calibrate(model, 3 * IMAGES)
    for name, value in again.items():
        check_same(f"{name}, calibrated twice", model.state_dict()[name].numpy(), value.numpy())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_said_with_the_name_of_the_layer(bad):
    """A comparison with NaN is false, so that a NaN passes for values without spread."""

    class Spoiled(nn.Identity):
        def forward(self, x):
            return torch.where(torch.arange(x.numel()).view(x.shape) == 7, bad, x)

    model = network("daq")
    model.insert(7, Spoiled())
    with pytest.raises(ValueError, match=r"^8\.input_quantizer: standard deviation of the first batch .*, got nan$"):
        calibrate(model, IMAGES)
    model = network("daq")
    with torch.no_grad():
        model[7].weight[1, 2, 0, 0] = bad
    with pytest.raises(ValueError, match=r"^7: weights must be finite, got 'NaN or infinity among them'$"):
        calibrate(model, IMAGES)
    assert not model[7]._forward_hooks


def test_equal_inputs_have_no_deviation():
    with pytest.raises(ValueError, match=r"^4\.input_quantizer: standard deviation of the first batch .*, got 0\.0$"):
        calibrate(nn.Sequential(*(nn.Identity() for _ in range(4)), network("daq")[4]), torch.full((2, 6, 5, 5), 0.1))


@pytest.mark.parametrize("method", ["daq", "dsq", "lsq", "qil"])
@pytest.mark.parametrize("norm", [1, 5])
def test_a_batch_that_does_not_do_sets_nothing(method, norm):
    """Whether the first layer refuses it, or only the last when the first has taken its values."""
    model = network(method)
    with torch.no_grad():
        model[norm].weight.fill_(math.nan)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="of the first batch"):
        calibrate(model, IMAGES)
    for name, value in before.items():
        check_same(name, model.state_dict()[name].numpy(), value.numpy())
    with pytest.raises(RuntimeError, match="has no first values"):
        model.eval()(IMAGES)


def test_weights_alone_take_any_inputs():
    """A method's kind of inputs matters only where inputs are quantized."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    quantize_model(net, "irnet", (1, None), example=IMAGES)
    assert calibrate(net, IMAGES).eval()(IMAGES).isfinite().all()


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = (QuantConv2d(3, 2, 3, bits=(2, 2)) for _ in range(2))

    def forward(self, x):
        return self.used(x)


def test_what_the_batch_does_not_reach_is_named():
    model = Unused()
    with pytest.raises(ValueError, match=r"batch must be one that reaches spare, spare\.input_quantizer, got"):
        calibrate(model, IMAGES)
    assert not model.used.has_first_values


@pytest.mark.parametrize("method", ["dorefa", "irnet"])
def test_weights_without_levels_are_refused(method):
    """They would be NaN: levels are a multiple of a mean magnitude, or of a deviation."""
    model = network(method)
    with torch.no_grad():
        model[7].weight.fill_(0)
    with pytest.raises(ValueError, match=r"^7: .*weights.* must be"):
        calibrate(model, IMAGES)
    with pytest.raises(ValueError, match=r"^QuantConv2d\(6, 4, .*\): (DoReFa|IRNet)\(.*\): .*weights.* must be"):
        model.train()(IMAGES)
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.fill_(0)
    with pytest.raises(ValueError, match=r"weights.* must be"):
        quantize_weight(layer, method, bits=1)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_parametrization_refuses_weights_that_cannot_be_standardised(value):
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.fill_(value)
    with pytest.raises(ValueError, match="weights"):
        quantize_weight(layer, "daq", bits=1)
    assert "parametrizations" not in dict(layer.named_children())


def test_parametrized_weights_and_plain_networks():
    layer = nn.Linear(6, 3)
    parametrize.register_parametrization(layer, "weight", build("lsq", bits=3, role="weight"), unsafe=True)
    calibrate(layer, torch.rand(2, 6))
    assert layer.eval()(torch.rand(2, 6)).isfinite().all()
    plain = nn.Linear(6, 3)
    assert calibrate(plain, torch.rand(2, 6)) is plain


@pytest.mark.parametrize("method", ["daq", "lsq", *(name for name in PAIRS if name not in INTEGRAL)])
def test_calibrated_networks_compile(method):
    """DAQ's, with a scale for the output, and LSQ's, without; and those that test_integers does not compile."""
    torch.compiler.reset()
    model = calibrate(network(method), IMAGES).eval()
    got = torch.compile(model, fullgraph=True, backend="eager")(IMAGES)
    check_same("compiled", got.detach().numpy(), model(IMAGES).detach().numpy())


# Several ranks


def test_first_values_are_refused_to_one_of_several_ranks(monkeypatch):
    """Whichever part would take them: a quantizer, or only a layer's scale."""
    monkeypatch.setattr(base, "ranks", lambda: 2)
    scale_only = QuantConv2d(3, 2, 3, bits=(1, None))
    for module in (build("dsq", bits=2, role="activation"), scale_only, network("daq"), network("lsq")):
        with pytest.raises(RuntimeError, match=r"each of 2 ranks would take its own .* Call torchimpl\.calibrate"):
            module.train()(IMAGES)
    with base.calibrating():
        scale_only(IMAGES)
    assert scale_only.has_first_values


def port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ranks(work, *arguments):
    """Run ``work(rank, *arguments)`` in two processes that know each other; returns what they return."""
    context = torch.multiprocessing.get_context("forkserver")  # one process imports what takes long, once
    context.set_forkserver_preload(["torch._dynamo", "torch.distributed", "hypothesis", "numba", "scipy.integrate"])
    results, address = context.SimpleQueue(), f"tcp://127.0.0.1:{port()}"
    started = [
        context.Process(target=_rank, args=(work, rank, address, results, *arguments), daemon=True) for rank in range(2)
    ]
    for process in started:
        process.start()
    found = dict(results.get() for _ in started)
    for process in started:
        process.join(60)
    for result in found.values():
        if isinstance(result, str):
            raise AssertionError(result)
    return found[0], found[1]


def _rank(work, rank, address, results, *arguments):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
        found = work(rank, *arguments)
    except BaseException:
        found = traceback.format_exc()
    results.put((rank, found))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def refused_then_trained(rank, methods):
    """Without first values a forward pass is refused; with them, ranks with other images step to equal parameters."""
    found = {}
    for method in methods:
        torch.manual_seed(rank)
        images, labels = (1 + rank) * torch.rand(4, 3, 9, 9), torch.tensor([0, 1, 2, 3])
        model = network(method)  # equal: its own seed
        with pytest.raises(RuntimeError, match=r"each of 2 ranks would take its own .* Call torchimpl\.calibrate"):
            network("lsq").train()(images)
        calibrate(model, images)
        trained = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(trained.parameters(), 0.01)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(trained(images).mean((2, 3)), labels).backward()
            optimizer.step()
        found[method] = {name: value.detach().numpy() for name, value in model.named_parameters()}
    return found


def test_two_ranks_calibrate_and_step_to_equal_parameters():
    one, two = ranks(refused_then_trained, ["daq", "lsq", "dsq"])
    for method, parameters in one.items():
        for name, value in parameters.items():
            check_same(f"{method}: {name}", two[method][name], value)


def failed_then_calibrated(rank):
    """On one rank the first batch is refused; then each rank has another one."""
    model = network("lsq")
    images = torch.full((2, 3, 9, 9), float("nan")) if rank else torch.rand(2, 3, 9, 9)
    with pytest.raises((ValueError, RuntimeError)) as error:
        calibrate(model, images)
    assert not any(part.has_first_values for part in model.modules() if isinstance(part, Quantizer))
    torch.manual_seed(1)
    calibrate(model, (1 + rank) * IMAGES)
    return str(error.value), {name: value.numpy() for name, value in model.state_dict().items()}


def test_ranks_fail_together_and_have_the_values_of_rank_0():
    """At once: DistributedDataParallel would make parameters equal whatever they were."""
    (said, one), (said_there, two) = ranks(failed_then_calibrated)
    assert "calibration failed on 1 of 1 other ranks" in said
    assert "mean magnitude" in said_there
    alone = network("lsq")
    torch.manual_seed(1)
    for name, value in calibrate(alone, IMAGES).state_dict().items():
        check_same(f"rank 0: {name}", one[name], value.numpy())
        check_same(f"rank 1: {name}", two[name], value.numpy())


def trained_together(rank, methods):
    """Twenty steps on other images: all that a method has learned or measured; and a basis of both ranks' data."""
    found = {}
    for method in methods:
        model = network(method)
        torch.manual_seed(rank)
        calibrate(model, (1 + rank) * torch.rand(4, 3, 9, 9))
        whole = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(parameter_groups(model), 1e-3)
        for step in range(20):
            for part in model.modules():
                if isinstance(part, Quantizer):
                    part.set_progress(step / 20)
            images, labels = (1 + rank) * torch.rand(4, 3, 9, 9), torch.tensor([0, 1, 2, 3])
            optimizer.zero_grad()
            F.cross_entropy(whole.train()(images).mean((2, 3)), labels).backward()
            optimizer.step()
        own = {name for name, _ in model.named_parameters()}
        found[method] = {
            name: value.detach().numpy()
            for name, value in model.state_dict().items()
            if name in own or "quantizer" in name or "scale" in name
        }
    return found, fitted(halves()[rank : rank + 1])


def halves():
    return torch.rand(2, 64, generator=torch.Generator().manual_seed(3))


def fitted(x):
    """The basis after three batches."""
    quantizer = build("lqnets", bits=2, role="activation")
    for _ in range(3):
        quantizer.train()(x)
    return quantizer.basis.numpy()


def test_twenty_steps_of_two_ranks_leave_every_method_with_equal_values():
    """Parameters, and statistics too: LQ-Nets' bases are fitted to both ranks' activations."""
    (one, basis), (two, other_basis) = ranks(trained_together, sorted(PAIRS))
    for method, values in one.items():
        for name, value in values.items():
            assert math.isfinite(float(abs(value).sum())), f"{method}: {name}"
            check_same(f"{method}: {name}", two[method][name], value)
    assert int(one["lqnets"]["4.weight_quantizer.steps"].max()) == 20
    check_same("basis", other_basis, basis)
    check_near("basis of the whole batch", basis, fitted(halves()), 1e-6)
