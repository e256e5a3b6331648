"""What all quantizers share beside their arithmetic: settings in the state, first values, ranges, graphs."""

import copy
import io
import json
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from reference import registry
from tests.oracles import check_same
from tests.torchimpl.modules import PAIRS, every_method, every_variant, fit, input_role
from torchimpl import calibrate, parameter_groups, safetensors
from torchimpl.conversion import quantize_model, quantize_weight
from torchimpl.layers import QuantConv2d, QuantLinear
from torchimpl.quantizers import build
from torchimpl.quantizers.base import SETTINGS, Quantizer, read_settings

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(method, bits=(2, 2), seed=0):
    torch.manual_seed(seed)
    options = {"method": PAIRS[method], "bits": fit(method, bits), "input_role": input_role(method)}
    activation = nn.ReLU() if input_role(method) == "activation" else nn.Hardtanh()
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), activation, QuantConv2d(4, 4, 3, **options), nn.Flatten(), nn.Linear(64, 3)
    )


def of_role(method, role):
    return registry.method(method).bits[role]


# Settings


@every_variant
def test_the_state_says_what_a_quantizer_is(method, variant):
    for bits, role, _ in (row for row in registry.method(method).defined() if row[2] == variant):
        said = read_settings(build(method, bits=bits, role=role, variant=variant).state_dict()[SETTINGS])
        assert {"method": method, "variant": variant, "bits": bits, "role": role}.items() <= said.items()


def test_options_are_said_too():
    said = read_settings(build("daq", bits=2, role="weight", gamma=3.0, literal=True).get_extra_state())
    assert said == {"method": "daq", "variant": "paper", "bits": 2, "role": "weight", "gamma": 3.0, "sigma": 1.0}
    layer = QuantLinear(3, 3, method="ste", bits=(2, 2), standardized=False)
    assert read_settings(layer.weight_quantizer.get_extra_state())["standardized"] is False


SETTING = {"method": "lsq", "bits": 2, "role": "weight", "variant": "paper"}


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        (SETTING, {**SETTING, "bits": 4}),  # of the same names and shapes
        (SETTING, {**SETTING, "role": "signed_activation"}),
        (SETTING, {**SETTING, "variant": "mqbench"}),
        ({**SETTING, "method": "ste", "variant": None}, {**SETTING, "method": "daq", "variant": None}),
        ({**SETTING, "method": "daq", "variant": None, "gamma": 3.0}, {**SETTING, "method": "daq", "variant": None}),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_another_configuration_is_refused_with_both_named(saved, loaded, strict):
    one, other = build(**saved), build(**loaded)
    one.initialize(torch.randn(9))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"saved from (\w+)\(.*bits=2.*\), and loaded into (\w+)\(") as error:
        nn.Sequential(other).load_state_dict(nn.Sequential(one).state_dict(), strict=strict)
    for settings in (read_settings(one.get_extra_state()), read_settings(other.get_extra_state())):
        shown = str(error.value)
        assert settings["method"] + "(" in shown
        assert all(f"{name}={value}" in shown for name, value in settings.items() if name != "method")
    assert "0: saved" in str(error.value), "it says where"
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was loaded"


def test_two_bits_do_not_load_into_four():
    """As whole networks; that was off by 11.8."""
    one, other = (
        quantize_model(nn.Sequential(nn.Conv2d(3, 4, 3)), "lsq", (bits, bits), keep_ends=False) for bits in (2, 4)
    )
    with pytest.raises(RuntimeError, match=r"(?s)0\.weight_q.*: saved from lsq.*0\.input_q.*: saved from lsq") as e:
        other.load_state_dict(calibrate(one, IMAGES).state_dict())
    assert str(e.value).count("loaded into") == 2


def test_standardised_weights_do_not_load_where_they_are_not():
    one, other = (QuantLinear(4, 4, method="ste", bits=(2, 2), standardized=s) for s in (True, False))
    with pytest.raises(RuntimeError, match=r"standardized=True.*standardized=False"):
        other.load_state_dict(one.state_dict())


@every_method
def test_states_go_through_files_and_come_back(method, tmp_path):
    """Torch's, read with weights_only, and safetensors; and states without settings, which others or we once wrote."""
    model = calibrate(network(method), IMAGES).eval()
    want, state = model(IMAGES).detach(), model.state_dict()
    assert all(type(value) is torch.Tensor for value in state.values())
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    write_safetensors(tmp_path / "file.safetensors", state)
    older = {name: value for name, value in state.items() if not name.endswith(SETTINGS)}
    for read in (torch.load(buffer, weights_only=True), safetensors.read(tmp_path / "file.safetensors"), older):
        fresh = network(method, seed=5)
        fresh.load_state_dict(read)
        assert all(q.has_first_values for q in fresh.modules() if isinstance(q, Quantizer)), "known before any batch"
        check_same("outputs", fresh.eval()(IMAGES).detach().numpy(), want.numpy())


def write_safetensors(path, state):
    """By the format's description: a header, then the tensors' bytes."""
    kinds = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL", torch.uint8: "U8"}
    header, content = {}, b""
    for name, value in state.items():
        data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        offsets = [len(content), len(content) + len(data)]
        header[name] = {"dtype": kinds[value.dtype], "shape": list(value.shape), "data_offsets": offsets}
        content += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.tensor([123, 34]), {"bits": 2}, torch.tensor([91, 93]).byte()])
def test_settings_that_cannot_be_read_are_refused(bad):
    quantizer = build("ste", bits=2, role="weight")
    with pytest.raises(RuntimeError, match="settings in the state are damaged"):
        quantizer.load_state_dict({**quantizer.state_dict(), SETTINGS: bad})


def test_a_parametrized_layer_knows_its_settings():
    one, other = (quantize_weight(nn.Linear(16, 4), "lsq", bits) for bits in (2, 3))
    with pytest.raises(RuntimeError, match=r"parametrizations\.weight\.0: saved from lsq\(.*bits=2"):
        other.load_state_dict(one.state_dict())


# Evaluation before, or beside, training


@every_method
def test_evaluation_before_training_says_what_to_do(method):
    model = network(method).eval()
    if all(q.has_first_values for q in model.modules() if isinstance(q, Quantizer)) and model[2].has_first_values:
        assert model(IMAGES).isfinite().all()
        return
    for each in (model, copy.deepcopy(model), AveragedModel(model)):
        with pytest.raises(
            RuntimeError, match=r"has no first values.*Call torchimpl\.calibrate\(model, images\) first"
        ):
            each.eval()(IMAGES)
        assert calibrate(each, IMAGES).eval()(IMAGES).isfinite().all()


@every_method
@pytest.mark.parametrize("buffers", [False, True])
def test_an_average_that_began_before_the_first_batch(method, buffers):
    """`AveragedModel` copies the buffers, `initialized` among them, behind the modules' backs."""
    model = network(method)
    average_of = get_ema_multi_avg_fn(0.9) if buffers else None  # torch's own average subtracts buffers of bool
    average = AveragedModel(model, multi_avg_fn=average_of, use_buffers=buffers)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(IMAGES).square().sum().backward()
        optimizer.step()
        average.update_parameters(model)
    before = {name: value.clone() for name, value in average.module.named_parameters()}
    assert average.eval()(IMAGES).isfinite().all()
    calibrate(average, 7 * IMAGES)
    for name, value in average.module.named_parameters():
        assert torch.equal(value, before[name]), f"{name} was set anew"


def test_an_ema_copy_by_the_states_tensors():
    """As timm has it: the values of both states, averaged in place."""
    model = calibrate(network("daq"), IMAGES)
    ema = network("daq", seed=3)
    with torch.no_grad():
        for old, new in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
            old.copy_(0.0 * old + 1.0 * new)
    check_same("outputs", ema.eval()(IMAGES).detach().numpy(), model.eval()(IMAGES).detach().numpy())


def test_an_exponential_average():
    model = calibrate(network("lsq"), IMAGES)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)
    average.update_parameters(model)
    assert average.eval()(IMAGES).isfinite().all()


# Parameters that training has driven out of range


def spoil(quantizer):
    name, parameter = next(iter(quantizer.named_parameters()))
    with torch.no_grad():
        parameter.fill_(float("nan"))
    return name


@every_method
def test_a_parameter_out_of_range_names_itself_once(method):
    settings = {"input_role": input_role(method), "keep_ends": False}
    model = quantize_model(nn.Sequential(nn.Conv2d(3, 4, 3)), PAIRS[method], fit(method, (2, 2)), **settings)
    calibrate(model, IMAGES.clamp(min=0.01))
    learned = [q for q in model.modules() if isinstance(q, Quantizer) and list(q.parameters())]
    for quantizer in learned:
        spoil(quantizer)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            model.train()(IMAGES)
            model.eval()(IMAGES)
    said = [str(w.message) for w in told if "its values are NaN" in str(w.message)]
    assert len(said) == len(learned)
    for quantizer, text in zip(sorted(learned, key=lambda q: q.role == "weight"), said, strict=True):
        assert text.startswith(f"0.{'weight' if quantizer.role == 'weight' else 'input'}_quantizer: ")
        assert type(quantizer).__name__ in text
        assert "nan" in text


def test_a_step_size_below_zero_is_said_where_it_happens():
    layer = calibrate(QuantLinear(4, 4, method="lsq", bits=(4, 4)), torch.rand(5, 4)).train()
    optimizer = torch.optim.SGD([layer.input_quantizer.step], lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(torch.rand(5, 4)).sum().backward()
    layer.input_quantizer.step.grad.fill_(9.0)
    optimizer.step()
    with pytest.warns(
        UserWarning, match=r"input_quantizer: LSQ\(bits=4.*step must be positive and finite, got -8\.\d+"
    ):
        layer(torch.rand(5, 4))


# Groups of parameters


@every_method
def test_parameters_of_quantizers_are_apart(method):
    model = network(method)
    network_group, quantizers = parameter_groups(model, network={"weight_decay": 0.1}, quantizers={"lr": 1e-4})
    names = {id(p): name for name, p in model.named_parameters()}
    own = {name for name in names.values() if "quantizer" in name or name.endswith("scale")}
    assert {names[id(p)] for p in quantizers["params"]} == own
    assert {names[id(p)] for p in network_group["params"]} == set(names.values()) - own
    assert (network_group["weight_decay"], quantizers["lr"]) == (0.1, 1e-4)
    if own:
        torch.optim.Adam([network_group, quantizers])


def test_groups_of_parametrizations_and_what_is_refused():
    layer = quantize_weight(nn.Linear(4, 4), "lsq", 2)
    assert len(parameter_groups(layer)[1]["params"]) == 1
    with pytest.raises(ValueError, match="quantizers must be options of an optimizer"):
        parameter_groups(layer, quantizers={"params": []})


# Activation checkpointing


class Checkpointed(nn.Module):
    def __init__(self, inner, reentrant):
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


def trained_state(wrap, *, variant, twice=False, steps=3):
    torch.manual_seed(0)
    layer = QuantConv2d(3, 3, 3, padding=1, method="lqnets", bits=(2, 2), variant=variant)
    inner = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU()) if twice else nn.Sequential(layer)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), wrap(inner))
    calibrate(model, IMAGES)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(IMAGES).square().mean().backward()
        optimizer.step()
    return {name.replace("inner.", ""): value for name, value in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("variant", ["released", "paper"])
def test_lqnets_fits_once_under_activation_checkpointing(variant, reentrant):
    """Its basis, count of steps and what the gradients made of all weights are those without, to the bit."""
    want = trained_state(lambda inner: inner, variant=variant)
    got = trained_state(lambda inner: Checkpointed(inner, reentrant), variant=variant)
    for name, value in want.items():
        check_same(name, got[name].numpy(), value.numpy())
    assert got["2.0.weight_quantizer.steps"].flatten().tolist() == [3, 3, 3]


def test_lqnets_fits_as_often_as_a_layer_is_used():
    want, got = (
        trained_state(wrap, variant="paper", twice=True, steps=1)
        for wrap in (lambda inner: inner, lambda inner: Checkpointed(inner, False))
    )
    for part in ("weight", "input"):
        for name in ("basis", "steps"):
            key = f"2.0.{part}_quantizer.{name}"
            check_same(key, got[key].numpy(), want[key].numpy())
    assert int(got["2.0.input_quantizer.steps"]) == 2


# Graphs


@every_method
def test_networks_are_exported(method):
    model = calibrate(network(method), IMAGES).eval()
    program = torch.export.export(model, (IMAGES,))
    check_same("exported", program.module()(IMAGES).detach().numpy(), model(IMAGES).detach().numpy())
    assert any("quantgap" in str(node.target) for node in program.graph.nodes)


@every_method
def test_fx_takes_quantized_layers_whole(method):
    model = calibrate(network(method), IMAGES).eval()
    traced = torch.fx.symbolic_trace(model)
    assert "2" in [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for training in (False, True):
        model.train(training)
        traced.train(training)
        want = copy.deepcopy(model)(IMAGES)
        check_same("traced", traced(IMAGES).detach().numpy(), want.detach().numpy())


def test_fx_takes_a_quantizer_whole():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.quantizer = build("pact", bits=2, role="activation")

        def forward(self, x):
            return F.relu(self.quantizer(x))

    traced = torch.fx.symbolic_trace(Net())
    check_same("traced", traced(IMAGES).detach().numpy(), Net()(IMAGES).detach().numpy())


@every_method
def test_scripting_is_refused_in_words(method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(RuntimeError, match=r"torch\.jit\.script cannot read .*: use torch\.jit\.trace"):
            torch.jit.script(network(method))


@every_method
def test_jit_traces_and_saves(method):
    model = calibrate(network(method), IMAGES).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of shapes, on which no value depends
        traced = torch.jit.trace(model, IMAGES)
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
        buffer.seek(0)
        loaded = torch.jit.load(buffer)
    with torch.no_grad():
        for x in (2 * IMAGES, IMAGES[:3]):
            check_same("traced", loaded(x).numpy(), model(x).numpy())


@every_method
def test_codes_are_not_of_placeholders(method):
    """As values: first values come from a batch in training mode, or from a state."""
    known = registry.method(method)
    role = known.roles[-1]
    module = build(method, bits=known.admitted(role)[0], role=role)
    if module.has_first_values:
        pytest.skip(f"the first values of {method} need no data")
    with pytest.raises(RuntimeError, match="has no first values"):
        module.eval().codes(torch.rand(8))
    x = torch.rand(8)
    codes = module.train().codes(x)
    assert torch.equal(module.eval().decode(codes, x), module(x))


@every_method
def test_the_meta_device_has_no_numbers_to_show_and_takes_a_state(method):
    known = registry.method(method)
    module = build(method, bits=known.admitted(known.roles[0])[0], role=known.roles[0])
    state = {name: value.clone() for name, value in module.state_dict().items()}
    empty = copy.deepcopy(module).to("meta")
    assert str(empty).startswith(type(module).__name__)
    empty.load_state_dict(state, assign=True)
    assert str(empty) == str(module)
    assert empty.has_first_values == module.has_first_values
