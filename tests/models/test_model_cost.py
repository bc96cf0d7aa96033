"""Parameters, operations, latency."""

import threading
import time

import pytest
import torch
from torch import nn
from torch.utils import flop_counter

from limbeck.models import build_model, count_flops, count_parameters, measure_latency


def test_tied_weights_count_once_and_frozen_ones_can_be_left_out():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert count_parameters(model) == 9
    model.append(nn.Linear(3, 2).requires_grad_(False))
    assert count_parameters(model) == 17
    assert count_parameters(model, trainable=True) == 9


def test_buffers_are_no_parameters():
    assert count_parameters(nn.BatchNorm1d(4)) == 8


def test_flops_of_a_linear_layer_are_two_per_multiply_add_for_one_sample():
    assert count_flops(nn.Linear(5, 7), torch.randn(9, 5)) == 2 * 5 * 7


def test_flops_of_resnet20_by_arithmetic():
    model = build_model("resnet20", num_classes=10, input_shape=(3, 32, 32))
    multiply_adds = 9 * 3 * 16 * 32**2 + 6 * 9 * 16 * 16 * 32**2
    for inside, channels, size in ((16, 32, 16), (32, 64, 8)):
        multiply_adds += 9 * (inside * channels + 5 * channels * channels) * size**2
    multiply_adds += 64 * 10
    assert count_flops(model, torch.randn(2, 3, 32, 32)) == 2 * multiply_adds


def test_flops_are_torchs_and_its_counter_is_left_as_it_was():
    model = build_model("vit_tiny", num_classes=10, input_shape=(3, 16, 16)).eval()
    image = torch.randn(1, 3, 16, 16)
    before = flop_counter._FlopCounterMode.__torch_dispatch__
    ours = count_flops(model, image)
    assert flop_counter._FlopCounterMode.__torch_dispatch__ is before
    with torch.no_grad(), flop_counter.FlopCounterMode(display=False) as counter:
        model(image)
    assert ours == counter.get_total_flops() > 0


def test_two_threads_that_count_leave_torchs_counter_as_it_was():
    before = flop_counter._FlopCounterMode.__torch_dispatch__
    model, image = nn.Linear(5, 7), torch.randn(1, 5)
    counts = []
    threads = [
        threading.Thread(target=lambda: counts.extend(count_flops(model, image) for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [70] * 80
    assert flop_counter._FlopCounterMode.__torch_dispatch__ is before


def test_flops_take_keyword_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, first, second):
            return self.layer(first + second)

    inputs = {"first": torch.randn(3, 4), "second": torch.randn(3, 4)}
    assert count_flops(Two(), inputs) == 2 * 4 * 2


@pytest.mark.parametrize("measure", [count_flops, lambda m, x: measure_latency(m, x, repeats=3)])
def test_measuring_leaves_modes_and_statistics_alone(measure):
    model = build_model("resnet8", num_classes=10, input_shape=(3, 8, 8)).train()
    model.bn1.eval()  # a frozen norm in a training network
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    measure(model, torch.randn(4, 3, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_modes_come_back_after_a_failure():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train()
    with pytest.raises(RuntimeError):
        measure_latency(model, torch.randn(2, 5))
    assert model.training
    assert model[1].training


def test_latency_is_the_median_of_single_samples():
    seen = []

    class Sleeper(nn.Module):
        def forward(self, inputs):
            seen.append((len(inputs), self.training, torch.is_grad_enabled()))
            time.sleep(0.2 if len(seen) == 5 else 0.004)  # one outlier does not move a median
            return inputs

    latency = measure_latency(Sleeper(), torch.randn(8, 2), repeats=9, warmup=2)
    assert 4 <= latency < 100
    assert seen == [(1, False, False)] * 11
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        measure_latency(Sleeper(), torch.randn(8, 2), repeats=0)
