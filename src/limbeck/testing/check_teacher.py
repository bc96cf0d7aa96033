"""The contract that every teacher keeps, as one call; public, so that others can test theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.errors import TeacherError
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher


def check_teacher(
    teacher: Teacher,
    batch: Batch,
    *,
    taps: Sequence[str] = (),
    tolerance: float = 1e-5,
) -> None:
    """Check that a teacher, bound and ready to be asked, keeps the contract.

    - answers are finite, one row a sample, detached, and no inference tensors: they can stand in
      a student's loss, whose backward leaves no gradient on the teacher;
    - the same question gets the same bits; a sample alone gets the answer it gets in the batch;
    - the batch is not written to, and neither are weights and statistics of the module, which is
      in eval mode;
    - the fingerprint stays the same from call to call and changes when a weight changes;
    - features are refused where the teacher gives outputs only, and where it gives more they are
      detached too, unless ``require_grad``: then the logits have gradients with respect to them.

    Args:
        teacher: the teacher; afterwards as before.
        batch: at least two samples, on the teacher's device.
        taps: taps to try on a teacher that gives features.
        tolerance: of a sample alone against the same in the batch, relative to the largest logit.

    Raises:
        AssertionError: names the first promise that does not hold.
    """
    assert len(batch) >= 2, "check_teacher needs a batch of at least two samples"
    before, print_before = _copies(batch), teacher.fingerprint()
    weights = _weights(teacher.module)
    outputs = teacher.ask(batch)
    _check_answer(outputs, len(batch))
    _check_backward(outputs)
    said = [tensor.clone() for tensor in _tensors(outputs)]  # it might reuse its tensors
    same = zip(said, _tensors(teacher.ask(batch)), strict=True)
    assert all(torch.equal(a, b) for a, b in same), "the same question gets another answer"
    _check_alone(teacher, batch, outputs, tolerance)
    after = _copies(batch)
    assert len(before) == len(after), "the batch was changed"
    for (name, old), (_, new) in zip(before, after, strict=True):
        assert _equal(old, new), f"{name} of the batch was written to"
    _check_module(teacher.module, weights)
    _check_features(teacher, batch, taps)
    _check_module(teacher.module, weights)
    assert teacher.fingerprint() == print_before, "the fingerprint changed though nothing else did"
    _check_fingerprint(teacher, print_before)


def _check_answer(outputs: Outputs, size: int) -> None:
    logits = outputs.logits
    assert logits.dim() >= 2, f"logits have shape {list(logits.shape)}, not [batch, ..., outputs]"
    assert len(logits) == size, f"{len(logits)} rows of logits for {size} samples"
    assert logits.is_floating_point(), f"logits are {logits.dtype}"
    assert bool(torch.isfinite(logits).all()), "logits are not finite"
    for tensor in _tensors(outputs):
        assert not tensor.requires_grad, "an answer is not detached"
        assert not tensor.is_inference(), "an answer is an inference tensor: it cannot be learned"


def _check_backward(outputs: Outputs) -> None:
    """Learn from the answer as a student would."""
    student = torch.zeros_like(outputs.logits, requires_grad=True)
    (student * outputs.logits).sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert torch.equal(student.grad, outputs.logits), "an answer changed during the backward pass"


def _check_alone(teacher: Teacher, batch: Batch, outputs: Outputs, tolerance: float) -> None:
    alone = teacher.ask(_first(batch)).logits[0]
    scale = float(outputs.logits.abs().max().clamp_min(1.0))
    gap = float((alone - outputs.logits[0]).abs().max()) / scale
    assert gap <= tolerance, f"a sample alone gets another answer than in the batch (by {gap:.3g})"


def _check_module(module: nn.Module | None, weights: Mapping[str, Tensor]) -> None:
    if module is None:
        return
    training = [name for name, part in module.named_modules() if part.training]
    assert not training, f"module {training[0]!r} of the teacher is in training mode"
    after = _weights(module)
    for name, value in after.items():
        kept = name in weights and _equal(value, weights[name])
        assert kept, f"{name} of the teacher was changed by asking"


def _check_features(teacher: Teacher, batch: Batch, taps: Sequence[str]) -> None:
    if teacher.access in ("none", "sparse", "outputs"):
        try:
            teacher.ask(batch, taps=("anything",))
        except TeacherError:
            return
        raise AssertionError("features were not refused, though access says outputs only")
    if not taps:
        return
    plain = teacher.ask(batch, taps=taps)
    assert plain.features, f"no features for the taps {list(taps)}"
    _check_answer(plain, len(batch))
    linked = teacher.ask(batch, taps=taps, require_grad=True)
    gradients = torch.autograd.grad(
        linked.logits.sum(), list(linked.features.values()), allow_unused=True
    )
    for name, gradient in zip(linked.features, gradients, strict=True):
        assert gradient is not None, f"logits have no gradient with respect to tap {name!r}"
    linked = teacher.ask(batch, taps=taps, require_grad=True)
    linked.logits.sum().backward()  # type: ignore[no-untyped-call]


def _check_fingerprint(teacher: Teacher, fingerprint: str) -> None:
    """Change one number of the module, look, and put the same bits back."""
    values = [v for _, v in _parameters(teacher.module) if v.is_floating_point() and v.numel()]
    if not values:
        return
    number = values[0].detach()[(0,) * values[0].dim()]  # a view: writing to it is seen
    kept = number.clone()
    number += 1
    changed = teacher.fingerprint() != fingerprint
    number.copy_(kept)
    assert changed, "the fingerprint stayed the same though a weight changed"
    assert teacher.fingerprint() == fingerprint, "the fingerprint depends on more than the weights"


def _first(batch: Batch) -> Batch:
    return Batch(
        inputs=_head(batch.inputs),
        targets=_head(batch.targets),
        index=_head(batch.index),
        teacher_inputs=_head(batch.teacher_inputs),
        changed=_head(batch.changed),
        draw=batch.draw,
    )


def _head(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value[:1]
    if isinstance(value, Mapping):
        return {key: _head(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_head(item) for item in value)
    return value


def _parameters(module: nn.Module | None) -> list[tuple[str, nn.Parameter]]:
    return [] if module is None else list(module.named_parameters())


def _weights(module: nn.Module | None) -> dict[str, Tensor]:
    """Return copies of parameters, buffers and gradients."""
    if module is None:
        return {}
    state = module.state_dict()
    found = {f"value of {name}": v for name, v in state.items() if isinstance(v, Tensor)}
    # Gradients may be left from the teacher's own training.
    found |= {f"gradient of {n}": p.grad for n, p in _parameters(module) if p.grad is not None}
    return {name: value.detach().clone() for name, value in found.items()}


def _equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are the same; NaN (no label) equals NaN."""
    missing = first != first
    return torch.equal(missing, second != second) and torch.equal(
        first.masked_fill(missing, 0), second.masked_fill(missing, 0)
    )


def _tensors(outputs: Outputs) -> Iterator[Tensor]:
    yield outputs.logits
    yield from outputs.features.values()
    yield from outputs.attentions.values()
    for member in outputs.members:
        yield from _tensors(member)


def _copies(batch: Batch) -> list[tuple[str, Tensor]]:
    """Return (name, copy) of every tensor of a batch."""
    found: list[tuple[str, Tensor]] = []

    def visit(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            found.append((name, value.detach().clone()))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                visit(f"{name}.{key}", item)
        elif isinstance(value, list | tuple):
            for position, item in enumerate(value):
                visit(f"{name}.{position}", item)

    for name in ("inputs", "targets", "index", "teacher_inputs", "changed"):
        visit(name, getattr(batch, name))
    return found
