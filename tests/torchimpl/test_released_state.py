"""What parameters and schedules of released checkpoints tell, on made-up checkpoints."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from torchimpl import released_state

NAMES = st.lists(st.sampled_from(["conv1", "layer1.conv1", "layer1.conv2", "linear"]), unique=True, min_size=1)


@given(NAMES, st.data())
def test_layers_without_a_quantizer(names, data):
    quantized = data.draw(st.lists(st.sampled_from(names), unique=True))
    state = {f"{name}.weight": torch.zeros(2, 2) for name in names}
    state |= {f"{name}.uW": torch.ones(()) for name in quantized}
    state |= {"bn1.weight": torch.ones(2), "bn1.num_batches_tracked": torch.tensor(7), "linear.bias": torch.ones(2)}
    count, detail = released_state.without_quantizer({"state_dict": state})
    plain = [name for name in names if name not in quantized]
    assert (count, detail) == (len(plain), {"layers": ", ".join(plain), "quantized": len(quantized)})


def test_bounds_of_inputs():
    state = {"a.uA": 1, "b.uA": 1, "a.lA": 0, "a.lW": 0, "a.uW": 1}
    assert released_state.input_lower_bounds({"state_dict": state}) == (1, {"upper": 2})


def schedule(**more):
    return {"T_max": 400, "eta_min": 0, "last_epoch": 400, "_last_lr": [0.0], **more}


def test_cosine_schedules_of_both_optimizers():
    content = {"scheduler_dict": schedule(), "q_scheduler_dict": schedule()}
    assert released_state.cosine_length(content) == (400, {"last rate": 0.0, "schedules": 2})
    content["q_scheduler_dict"] = schedule(_last_lr=[1e-4])
    assert released_state.cosine_length(content)[1]["last rate"] == 1e-4
    content["q_scheduler_dict"] = schedule(T_max=200)
    assert math.isnan(released_state.cosine_length(content)[0])
    steps = {"step_size": 80, "_last_lr": [0.0]}
    assert math.isnan(released_state.cosine_length({"scheduler_dict": steps, "q_scheduler_dict": steps})[0])
