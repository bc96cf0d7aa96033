"""What a distillation in another loop remembers: all that going on needs, as a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.integrations.course import SAMPLES, Course
from limbeck.methods.context import Context
from limbeck.teachers import Teacher


class Remembering(nn.Module):
    """A module whose state holds student, runtimes, teachers that change, and the position.

    The position is epoch, step, stage entered and the epoch whose samples were chosen last; the
    samples that methods chose are beside it.
    """

    _ctx: Context
    _course: Course
    _fitted: bool
    teachers: Mapping[str, Teacher]

    def training_state(self) -> dict[str, Tensor]:
        """Return the state without the student's own: what a checkpoint keeps beside it."""
        state = self.state_dict()
        return {name: value for name, value in state.items() if not name.startswith("student.")}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`training_state` gave; the student stays as it is.

        Raises:
            RuntimeError: it is the state of other methods, students or teachers.
        """
        self.load_state_dict({**self.state_dict(), **state})
        missing = self.training_state().keys() - state.keys()
        if missing:
            raise RuntimeError(f"missing: {', '.join(sorted(missing))}")

    def memory_names(self) -> list[str]:
        """Return the names of the runtimes' buffers."""
        return [name for name, _ in self.named_buffers() if name.startswith("runtimes.")]

    def _followers(self) -> dict[str, nn.Module]:
        return {
            f"teachers.{name}.": teacher.state
            for name, teacher in self.teachers.items()
            if teacher.changes and teacher.state is not None
        }

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        passed, samples = self._course.state()
        destination[f"{prefix}position"] = torch.tensor([self._ctx.epoch, self._ctx.step, *passed])
        destination.update({f"{prefix}{SAMPLES}{name}": rows for name, rows in samples.items()})
        for start, module in self._followers().items():
            module.state_dict(destination=destination, prefix=prefix + start, keep_vars=keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        chosen = prefix + SAMPLES
        extra = (f"{prefix}teachers.", f"{prefix}position", chosen)
        plain = {name: value for name, value in state_dict.items() if not name.startswith(extra)}
        super()._load_from_state_dict(
            plain, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        position = state_dict.get(f"{prefix}position")
        if position is None or len(position) != 4:
            missing_keys.append(f"{prefix}position")
        else:
            self._ctx.epoch, self._ctx.step, *passed = position.tolist()
            rows = {
                k.removeprefix(chosen): v for k, v in state_dict.items() if k.startswith(chosen)
            }
            self._course.load(passed, rows)
            self._fitted = True  # what was fitted is in the state
        for start, module in self._followers().items():
            begun = prefix + start
            kept = {k.removeprefix(begun): v for k, v in state_dict.items() if k.startswith(begun)}
            answer = module.load_state_dict(kept, strict=False)
            missing_keys += [begun + name for name in answer.missing_keys]
            unexpected_keys += [begun + name for name in answer.unexpected_keys]
