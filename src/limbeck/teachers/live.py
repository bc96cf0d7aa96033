"""Live teacher: a network that is asked about every batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch, first_tensor
from limbeck.data.normalize import Normalize
from limbeck.errors import LimbeckError, ModelError, TapError, TeacherError, unknown
from limbeck.methods.card import Access
from limbeck.models.cost import count_parameters
from limbeck.models.hf import check_vocabulary
from limbeck.models.pretrained_config import expected_statistics, size_hint
from limbeck.taps import TappedModel, unwrap
from limbeck.taps.outputs import Outputs
from limbeck.teachers.answered_maps import apart, with_maps
from limbeck.teachers.base import Teacher, stated_inputs
from limbeck.teachers.digest import digest_of_parts, function_digest, module_digest
from limbeck.teachers.examples import check_answer, example_batch
from limbeck.teachers.frozen import Frozen, borrow, give_back
from limbeck.teachers.sizes import InputSize
from limbeck.teachers.statistics import InputStatistics

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle
    from limbeck.teachers.visits import Visits

LOOKED_AT = 16  # samples that tell whether inputs lie in [0, 1]
Precision = Literal["float32", "bfloat16", "float16"]
_PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class LiveTeacher(Teacher):
    """A network as teacher.

    From ``bind`` (or the first question) to ``close`` the module is in eval mode and its parameters
    require no gradient; then modes, flags, device and memory format are as they were. It runs under
    ``no_grad``, not inference mode: its outputs may enter a student's backward pass.

    A network whose ``pretrained_cfg`` names a size, and that cannot read the data's, is given its
    inputs resized to it.

    Args:
        module: the network; or one inside ``torch.compile``.
        normalization: the statistics it was trained with; inputs are moved from the data's to
            these. "auto": what its ``pretrained_cfg`` says (timm's networks have one), where it
            has one. None: it sees what the student sees.
        name: what methods call it.
        forward: ``forward(module, batch)`` where it is not called as ``module(inputs)``.
        compile: whether to compile it; questions with gradients run uncompiled.
        precision: "float32" (the module's own types, whatever autocast is around), or "bfloat16"
            or "float16" by autocast; logits and detached features are float32 then.
        channels_last: whether images and weights have that memory format; so too where the run's
            ``train.channels_last`` says it.

    Raises:
        TeacherError: an unknown precision; on ``bind``, a network that cannot read the data or has
            another number of outputs; on ``ask``, one that was put in training mode or that writes
            to its inputs.
    """

    access: Access = "module"

    def __init__(
        self,
        module: nn.Module,
        *,
        normalization: Normalize | Literal["auto"] | None = "auto",
        name: str = "teacher",
        forward: Callable[[Any, Any], Any] | None = None,
        compile: bool | Mapping[str, Any] = False,
        precision: Precision = "float32",
        channels_last: bool = False,
    ) -> None:
        if precision not in _PRECISIONS:
            raise TeacherError(f"teachers.{name}: " + unknown("precision", precision, _PRECISIONS))
        self.name = name
        self._module = unwrap(module)
        if normalization == "auto":
            found = expected_statistics(self._module)
            self._statistics = InputStatistics(found, name, read_off=True)
        else:
            self._statistics = InputStatistics(normalization, name)
        self._size = InputSize(self._module, name)
        self._normalization = normalization
        self._forward = forward
        # A compiled module is compiled anew: its code would not see the hooks of the taps.
        self._compile = compile or hasattr(module, "_orig_mod")
        self._precision = precision
        self._channels_last = channels_last
        self._runs_channels_last = channels_last
        self._taps: tuple[str, ...] = ()
        self._explains: tuple[str, ...] = ()
        self._example: Any = None
        self._frozen: Frozen | None = None
        self._tapped: TappedModel | None = None
        # A half-precision or float64 network reads inputs of its own type.
        self._dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)

    def with_module(self, module: nn.Module) -> LiveTeacher:
        """Return a teacher with the same settings around another network of the same kind."""
        return LiveTeacher(
            module,
            normalization=self._normalization,
            name=self.name,
            forward=self._forward,
            compile=self._compile,
            precision=self._precision,
            channels_last=self._channels_last,
        )

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self._module

    @property
    def normalization(self) -> Normalize | None:
        """The statistics that were said to be its own; None: none were."""
        return self._statistics.stated

    @property
    def forward(self) -> Callable[[Any, Any], Any] | None:
        """What the network is run by, where that was given."""
        return self._forward

    def foresee(self, visits: Visits) -> None:
        """Take over the run's memory format until it ends: its batches come in it."""
        self._runs_channels_last = self._channels_last or visits.channels_last

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Freeze the network, move it to the device, and try it on two samples."""
        self._open(device)
        if data is None:
            return
        try:
            check_vocabulary(self._module, data.vocabulary)
        except ModelError as error:
            raise TeacherError(f"teachers.{self.name}: {error}") from error
        self._look_at(data, device)
        example = self._read(example_batch(data, device))
        if self._forward is None:
            self._example = example.inputs
        try:
            outputs = self._run(example, None, require_grad=False)
        except LimbeckError:
            raise
        except Exception as error:  # whatever a stranger's forward raises
            shape = list(first_tensor(example.inputs).shape)
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise TeacherError(
                f"teachers.{self.name}: {type(self._module).__name__} cannot read inputs of shape "
                f"{shape}: {reason}{size_hint(self._module)}"
            ) from error
        check_answer(self.name, outputs, len(example), data.num_outputs)

    def _look_at(self, data: DataBundle, device: torch.device | str) -> None:
        """Decide how inputs are moved to what the network reads."""
        inputs = example_batch(data, device, size=LOOKED_AT).inputs
        self._statistics.bind(data.normalization, inputs)
        if self._forward is None:
            self._size.decide(self._module, self._statistics(inputs, self.name))

    def reads(self, data: DataBundle) -> str:
        """Return how inputs are moved to what the network reads; "" where they are not."""
        self._look_at(data, "cpu")
        parts = [self._statistics.describe()] if self._statistics.noteworthy else []
        return "; ".join([*parts, *filter(None, [self._size.describe()])])

    def inputs_of(self, batch: Batch) -> Any:
        """Return the inputs as the network reads them: its statistics, size and type."""
        return self._read(batch).inputs

    def meet(self, student: nn.Module) -> None:
        """Refuse a student that would train this network's own parameters.

        Raises:
            TeacherError: they share parameters that were trainable before the teacher froze them.
        """
        trainable = self._open().was_trainable
        shared = [name for name, value in student.named_parameters() if id(value) in trainable]
        if shared:
            raise TeacherError(
                f"teachers.{self.name}: the student shares {len(shared)} parameters with it "
                f"({shared[0]}, ...); give the student a copy (copy.deepcopy)"
            )

    def set_taps(self, taps: Sequence[str]) -> None:
        """Put taps on the network for every ordinary call; replaces those of an earlier call.

        "explanation:gradcam:stages[-1]" and the like stand for the map of its own top class.
        """
        self._taps, self._explains = apart(taps)
        self._release()
        self._open()

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return logits and tapped features of a batch; see ``Teacher.ask``.

        With ``require_grad``, gradients of the logits with respect to tapped features (and to
        inputs that require one) exist; parameters get none.
        """
        frozen = self._open()
        frozen.check_eval(self.name)
        layers, explains = (None, self._explains) if taps is None else apart(taps)
        read = self._read(batch)
        outputs = self._run(read, layers, require_grad=require_grad)
        if not explains:
            return outputs

        def again(taps: tuple[str, ...]) -> Outputs:
            return self._run(read, taps, require_grad=True)

        return with_maps(outputs, explains, again, first_tensor(stated_inputs(batch)))

    def _open(self, device: torch.device | None = None) -> Frozen:
        """Borrow the module and attach the taps where that has not been done."""
        if self._frozen is None:
            self._frozen = borrow(self._module)
            self._frozen.freeze(self._module, device, self._runs_channels_last)
        elif device is not None:
            self._frozen.freeze(self._module, device, self._runs_channels_last)
        if self._tapped is None:
            try:
                self._tapped = TappedModel(
                    self._module,
                    self._taps,
                    forward=self._forward,
                    compile=self._compile,
                    example=self._example,
                )
            except TapError as error:
                raise TapError(f"teachers.{self.name}: {error}") from error
        return self._frozen

    def _read(self, batch: Batch) -> Batch:
        """Return the batch as the network should see it."""
        inputs = self._size(self._statistics(stated_inputs(batch), self.name))
        if isinstance(inputs, Tensor):
            if inputs.is_floating_point() and self._dtype is not None:
                inputs = inputs.to(self._dtype)
            if self._runs_channels_last and inputs.dim() == 4:
                inputs = inputs.to(memory_format=torch.channels_last)
        return batch.replace(inputs=inputs, teacher_inputs=None)

    def _run(self, batch: Batch, taps: Sequence[str] | None, *, require_grad: bool) -> Outputs:
        assert self._tapped is not None
        watched = first_tensor(batch.inputs)
        version = watched._version
        reduced = self._precision != "float32"
        with (
            torch.set_grad_enabled(require_grad),
            torch.autocast(watched.device.type, _PRECISIONS[self._precision], enabled=reduced),
        ):
            if taps is None and not require_grad:
                outputs = self._tapped(batch)
            else:
                outputs = self._tapped.ask(batch, taps, require_grad=require_grad)
        if watched._version != version:
            raise TeacherError(
                f"teachers.{self.name}: {type(self._module).__name__} writes to its inputs (a "
                "first layer with inplace=True?); the student would see that too"
            )
        if require_grad:  # features stay the very tensors that the logits' graph begins at
            return _with_logits(outputs, _widen(outputs.logits))
        return outputs.detach().map(_widen)

    def fingerprint(self) -> str:
        """Return the sha256 of class, structure, weights, statistics, precision and forward."""
        forward = self._forward
        called = "" if forward is None else function_digest(forward)
        size = [key] if (key := self._size.key()) else []
        return digest_of_parts(
            "live",
            module_digest(self._module),
            self._statistics.key(),
            self._precision,
            called,
            *size,
        )

    def describe(self) -> str:
        """Return class, size, precision, and which statistics its inputs have."""
        size = f"{count_parameters(self._module):,} parameters"
        kind = type(self._module).__name__
        parts = [f"{kind}, {size}, {self._precision}", self._statistics.describe()]
        return "; ".join([*parts, *filter(None, [self._size.describe()])])

    def _release(self) -> None:
        if self._tapped is not None:
            self._tapped.close()
            self._tapped = None

    def close(self) -> None:
        """Take the hooks away and give the module back as it was. Calling again does nothing."""
        self._release()
        self._runs_channels_last = self._channels_last
        if self._frozen is not None:
            frozen, self._frozen = self._frozen, None
            give_back(self._module, frozen)


def _widen(tensor: Tensor) -> Tensor:
    """Return half-precision values as float32; others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _with_logits(outputs: Outputs, logits: Tensor) -> Outputs:
    return Outputs(logits, outputs.features, outputs.attentions, outputs.members)
