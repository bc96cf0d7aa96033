"""Runs on a GPU: the same bits in deterministic mode, nothing waited for, caches, precision."""

import dataclasses
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from method_runs import log_of, make_cnn, make_plan, run, same_weights, teacher_network

from limbeck.data import bundle_from, load_data
from limbeck.data.batch import _pinned, move
from limbeck.engine import distiller
from limbeck.engine.distributed import pick_device
from limbeck.engine.running import run_plan
from limbeck.engine.signals import Interrupted
from limbeck.errors import LimbeckError, RecipeError
from limbeck.models import build_model, load_model
from limbeck.teachers import CachedTeacher, LiveTeacher

REMEMBERING = ["kd", "crd", "vid", "cc", "fsp", "ab", "ft", "ofd", "reviewkd", "kcd", "dml", "pskd"]
AUGMENT = [{"crop": {"padding": 1}}, "flip"]


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(name, tmp_path):
    def plan() -> Any:
        return make_plan(name, deterministic=True)

    whole = run(plan(), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 3)
        with pytest.raises(Interrupted):
            run(plan(), tmp_path / "cut")
    resumed = run_plan(plan(), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_cached_teacher_gives_the_losses_of_the_live_one(precision, tmp_path):
    data = load_data("digits", num_train=64, augment=AUGMENT)

    def log(teacher: Any, folder: str) -> Any:
        plan = make_plan(
            "kd", data=data, epochs=4, views=2, precision=precision, deterministic=True
        )
        plan.teachers["teacher"] = teacher
        run(plan, tmp_path / folder)
        return log_of(tmp_path / folder)

    network = teacher_network()
    live = log(LiveTeacher(network), "live")
    assert log(CachedTeacher(network, tmp_path / "cache"), "first") == live
    assert log(CachedTeacher(network, tmp_path / "cache"), "second") == live


@pytest.mark.parametrize("teacher", ["live", "cached"])
@pytest.mark.parametrize("method", ["plain", "kd", "at", "fitnet", "dkd"])  # CRD's draws do wait
def test_between_two_lines_of_the_log_no_step_waits_for_the_gpu(method, teacher, tmp_path):
    plan = make_plan(method, epochs=4, views=1, log_every=1000)
    if method != "plain" and teacher == "cached":
        plan.teachers["teacher"] = CachedTeacher(teacher_network(), tmp_path / "cache")
    step = distiller.Distiller._train_step
    with pytest.MonkeyPatch.context() as patch:

        def watched(self: Any, *arguments: Any) -> None:
            torch.cuda.set_sync_debug_mode("error" if self.position.epoch > 1 else "default")
            try:
                step(self, *arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        patch.setattr(distiller.Distiller, "_train_step", watched)
        run(plan, tmp_path / "run")


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # inside torch's own compiler
@pytest.mark.parametrize("setting", ["compile", "channels_last", "bfloat16", "ema"])
def test_settings(setting, tmp_path):
    train: dict[str, Any] = {
        "compile": {"compile": True},
        "channels_last": {"channels_last": True},
        "bfloat16": {"precision": "bfloat16"},
        "ema": {"ema": 0.9, "deploy": "ema"},
    }[setting]
    assert run(make_plan("kd", epochs=4, **train), tmp_path / "run").summary["status"] == "done"


def test_a_deployed_student_says_the_same_on_the_cpu(tmp_path):
    outcome = run(make_plan("kd", epochs=2), tmp_path / "run")
    student = load_model(tmp_path / "run" / "student", model=make_cnn(4, 8))
    inputs = torch.rand(16, 1, 8, 8)
    with torch.no_grad():
        ours, theirs = student(inputs), outcome.student(inputs.cuda()).cpu()
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_what_has_no_deterministic_form_is_said_in_one_line(tmp_path):
    plan = make_plan("kd", deterministic=True)
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(5), torch.nn.Flatten())
    network.append(torch.nn.Linear(25, 10))
    network.insert(0, torch.nn.Conv2d(1, 1, 1))
    plan = dataclasses.replace(plan, make_student=lambda: network)
    with pytest.raises(RecipeError, match="no deterministic form of adaptive_avg_pool2d_backward"):
        run(plan, tmp_path / "run")


def test_the_workspace_of_products_is_one_that_keeps_bits(tmp_path):
    run(make_plan("kd", deterministic=True), tmp_path / "run")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")


def test_networks_of_image_size_train(tmp_path):
    shape = (3, 32, 32)
    images = torch.randint(0, 256, (256, *shape), dtype=torch.uint8)
    part = (images, torch.arange(256) % 10)
    data = bundle_from(part, part, part, num_classes=10, augment=[{"crop": {"padding": 4}}, "flip"])
    plan = make_plan("kd", data=data, epochs=2, batch_size=64)
    teacher = LiveTeacher(build_model("resnet20", num_classes=10, input_shape=shape))
    plan = dataclasses.replace(
        plan,
        make_student=lambda: build_model("resnet8", num_classes=10, input_shape=shape),
        teachers={"teacher": teacher},
    )
    assert run(plan, tmp_path / "run").summary["status"] == "done"


GROUP = """
import torch, torch.distributed as dist
from limbeck.engine.distributed import World, pick_device, start_group
device = pick_device()
start_group(device)
for place in (device, torch.device("cpu")):  # methods sum what they count on either
    tensor = torch.ones(3, device=place)
    dist.all_reduce(tensor)
    dist.all_gather([torch.empty_like(tensor)], tensor)
    dist.broadcast(tensor, src=0)
box = [{"anything": 1}]
dist.broadcast_object_list(box, src=0)
dist.barrier()
net = World(0, 2, device).wrap(torch.nn.Linear(3, 2).to(device), find_unused=False)
net(torch.ones(4, 3, device=device)).sum().backward()
print(type(net).__name__, tensor.tolist(), box)
dist.destroy_process_group()
"""


def test_a_process_group_serves_both_kinds_of_memory():
    """One process: two of them on one GPU are what NCCL refuses."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    command += ["--nproc-per-node=1", sys.executable, "-c", GROUP]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    assert "DistributedDataParallel [1.0, 1.0, 1.0] [{'anything': 1}]" in said.stdout


def test_more_processes_than_gpus_are_refused_in_one_line(monkeypatch):
    count = torch.cuda.device_count()
    monkeypatch.setenv("LOCAL_RANK", str(count))
    with pytest.raises(LimbeckError, match=f"no GPU: of this machine {count} (is|are) visible"):
        pick_device()


def test_large_tensors_go_through_pinned_memory_small_ones_as_they_are():
    large = torch.rand(64, 1, 32, 32)
    assert _pinned(large, "cuda").is_pinned()
    assert not _pinned(large[:1].clone(), "cuda").is_pinned()
    grey = large.expand(-1, 3, -1, -1)
    assert torch.equal(_pinned(grey, "cuda"), grey)
    flat = large.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    assert _pinned(flat, "cuda").is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(move(grey, "cuda").cpu(), grey)
