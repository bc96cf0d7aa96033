"""Borrowing a user's module: frozen while a teacher needs it, given back as it was."""

from __future__ import annotations

import weakref

import torch
from torch import nn

from limbeck.errors import TeacherError


class Frozen:
    """What must be restored on one module; shared by all teachers that use the same one."""

    def __init__(self, module: nn.Module) -> None:
        self.users = 0
        self._modes = [(part, part.training) for part in module.modules()]
        self._flags = [(value, value.requires_grad) for value in module.parameters()]
        self._home = _device_of(module)
        self._channels_first: list[nn.Parameter] = []

    @property
    def was_trainable(self) -> set[int]:
        """Ids of the parameters that required a gradient before."""
        return {id(value) for value, required in self._flags if required}

    def freeze(self, module: nn.Module, device: torch.device | None, channels_last: bool) -> None:
        """Put the module in eval mode, without gradients, on the device and in the format."""
        module.eval()
        module.requires_grad_(False)
        if device is not None and self._home is not None:
            module.to(device)
        if channels_last:
            self._channels_first += [
                value for value in module.parameters() if value.dim() == 4 and value.is_contiguous()
            ]
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def restore(self, module: nn.Module) -> None:
        """Give the module back: modes of each part, gradient flags, device, memory format."""
        for part, training in self._modes:
            part.training = training
        for value, required in self._flags:
            value.requires_grad_(required)
        if self._home is not None:
            module.to(self._home)
        for value in self._channels_first:
            value.data = value.data.contiguous()

    def check_eval(self, name: str) -> None:
        """Raise TeacherError if any part was put in training mode."""
        for part, _ in self._modes:
            if part.training:
                raise TeacherError(
                    f"teachers.{name}: {type(part).__name__} was put in training mode; a teacher "
                    "answers in eval mode (does the student share modules with it?)"
                )


# By id of the module. A record keeps its module alive, so the id stays its own; teachers keep the
# record, so a forgotten teacher leaks nothing.
_BORROWED: weakref.WeakValueDictionary[int, Frozen] = weakref.WeakValueDictionary()


def borrow(module: nn.Module) -> Frozen:
    """Return the record of a module, new or of the teacher that already holds it."""
    record = _BORROWED.get(id(module))
    if record is None:
        record = Frozen(module)
        _BORROWED[id(module)] = record
    record.users += 1
    return record


def give_back(module: nn.Module, record: Frozen) -> None:
    """Restore the module when its last user lets go."""
    record.users -= 1
    if record.users == 0:
        _BORROWED.pop(id(module), None)
        record.restore(module)


def _device_of(module: nn.Module) -> torch.device | None:
    """Return the one device of a module; None where it has none or is spread over several."""
    devices = {value.device for value in (*module.parameters(), *module.buffers())}
    return devices.pop() if len(devices) == 1 else None
