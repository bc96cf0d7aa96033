"""Online teacher: a network that learns from the labels while it teaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limbeck.data.batch import Batch
from limbeck.errors import ModelError, TapError, TeacherError
from limbeck.methods.card import Access
from limbeck.models.calling import evaluating
from limbeck.models.hf import check_vocabulary
from limbeck.taps import TappedModel
from limbeck.taps.outputs import Outputs
from limbeck.teachers.answered_maps import apart
from limbeck.teachers.base import Teacher, stated_inputs
from limbeck.teachers.digest import module_digest
from limbeck.teachers.examples import check_answer, example_batch

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle


class OnlineTeacher(Teacher):
    """A teacher that is trained at the same time as its students (Niyaz and Bathula 2021).

    Its own loss is the task's (cross-entropy), of weight 1; what it says reaches the students
    detached, so that it learns as it would alone. The engine trains it with the run's optimiser
    and schedule and keeps it in checkpoints; a norm to clip at is that of its own gradient. It
    reads what the student reads.

    Args:
        network: what learns; it is trained in place, and not deployed.
        name: what methods call it.
        forward: ``forward(network, batch)`` where it is not called as ``network(inputs)``.
        compile: whether to compile it.

    Raises:
        TeacherError: nothing of the network can be trained; on ``bind``, it cannot read the data
            or has another number of outputs, or no sample has a label; on ``meet``, it shares
            parameters with the student; on ``set_taps``, a map of its own answer is asked for.
        TapError: on ``set_taps``, the network has no such tap.
    """

    access: Access = "features"
    changes = True

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str = "teacher",
        forward: Callable[[Any, Any], Any] | None = None,
        compile: bool = False,
    ) -> None:
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise TeacherError(f"teachers.{name}.online: has nothing that could be trained")
        self.name = name
        self._network = network
        self._forward = forward
        self._compile = compile
        self._taps: tuple[str, ...] = ()
        self._tapped: TappedModel | None = None

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self._network

    @property
    def learner(self) -> nn.Module:
        """The network: the engine trains it."""
        return self._network

    @property
    def state(self) -> nn.Module:
        """The network: it goes into checkpoints."""
        return self._network

    @property
    def forward(self) -> Callable[[Any, Any], Any] | None:
        """What the network is run by, where that was given."""
        return self._forward

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Move the network to the device, and try it on two samples."""
        self._network.to(device)
        if data is None:
            return
        if not bool(data.splits["train"].labelled.any()):
            raise TeacherError(
                f"teachers.{self.name}.online: learns from labels, and no training sample has one"
            )
        if data.augment_train.steps.mixup:
            raise TeacherError(
                f"teachers.{self.name}.online: learns from labels, and mixup (data.augment) leaves "
                "no sample its label; leave it out, or use a teacher that has learned"
            )
        try:
            check_vocabulary(self._network, data.vocabulary)
        except ModelError as error:
            raise TeacherError(f"teachers.{self.name}.online: {error}") from error
        example = example_batch(data, device)
        try:
            outputs = self.ask(example)
        except Exception as error:  # whatever a stranger's forward raises
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise TeacherError(
                f"teachers.{self.name}.online: cannot read the data: {reason}"
            ) from error
        check_answer(self.name, outputs, len(example), data.num_outputs)

    def meet(self, student: nn.Module) -> None:
        """Refuse a student that shares parameters: it would be trained twice."""
        mine = {id(parameter) for parameter in self._network.parameters()}
        shared = [name for name, value in student.named_parameters() if id(value) in mine]
        if shared:
            raise TeacherError(
                f"teachers.{self.name}.online: the student shares {len(shared)} parameters with it "
                f"({shared[0]}, ...); give the student a copy (copy.deepcopy)"
            )

    def set_taps(self, taps: Sequence[str]) -> None:
        """Put taps on the network for every ordinary call."""
        self.close()
        layers, explains = apart(taps)
        if explains:
            raise TeacherError(
                f"teachers.{self.name}.online: its explanations change as it learns, so they "
                "cannot be asked for as an answer; set method.frozen=false"
            )
        self._taps = layers
        self._open()

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return what the network says.

        With ``require_grad`` it runs in the mode that it is in, with a graph to its parameters, as
        a step of training needs; otherwise in evaluation mode and detached.
        """
        tapped = self._open()
        read = batch.replace(inputs=stated_inputs(batch), teacher_inputs=None)
        if require_grad:
            return tapped(read) if taps is None else tapped.ask(read, taps, require_grad=True)
        with torch.no_grad(), evaluating(self._network):
            return (tapped(read) if taps is None else tapped.ask(read, taps)).detach()

    def _open(self) -> TappedModel:
        if self._tapped is None:
            try:
                self._tapped = TappedModel(
                    self._network,
                    self._taps,
                    forward=self._forward,
                    compile=self._compile,
                    require_grad=True,  # methods may differentiate it at its inputs
                )
            except TapError as error:
                raise TapError(f"teachers.{self.name}: {error}") from error
        return self._tapped

    def fingerprint(self) -> str:
        """Return the digest of the network as it is now: it changes, so never cache its answers."""
        return module_digest(self._network)

    def describe(self) -> str:
        """Return what it is."""
        return f"{type(self._network).__name__}, learning beside the student"

    def close(self) -> None:
        """Let the hooks go."""
        if self._tapped is not None:
            self._tapped.close()
            self._tapped = None
