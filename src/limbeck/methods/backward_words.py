"""Backward-KD of texts: the student's word vectors climb, a matrix carries them to the teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError, TapError
from limbeck.methods.backward import Backward, BackwardRuntime
from limbeck.methods.context import Context
from limbeck.methods.layers import teacher_with_layers
from limbeck.models.hf import is_transformers
from limbeck.taps import tap_shapes

if TYPE_CHECKING:
    from limbeck.data import DataBundle

IDS, VECTORS = "input_ids", "inputs_embeds"


class WordsRuntime(BackwardRuntime):
    """Backward-KD at work on texts: moved word vectors, and the matrix Q of each generation."""

    bridges: Tensor
    words: Tensor

    def __init__(
        self,
        method: Backward,
        student: nn.Module,
        teachers: Mapping[str, Any],
        data: DataBundle,
        ctx: Context,
    ) -> None:
        teacher = teacher_with_layers(method, teachers)
        assert ctx.example is not None
        ids = ctx.example.inputs[IDS]
        ours = _table_of("the student", student, ctx.forward, ctx.example.inputs)
        name = f"teacher {teacher.name!r}"
        theirs = _table_of(name, teacher.module, teacher.forward, ctx.example.inputs)
        if len(ours) != len(theirs):
            raise MethodError(
                f"method backward: the student knows {len(ours):,} tokens and {name} "
                f"{len(theirs):,}; word vectors are carried over within one vocabulary"
            )
        longest = data.splits["train"].fetch(torch.arange(1)).inputs[IDS].shape[1]
        sample = ours.new_zeros(max(longest, ids.shape[1]), ours.shape[1])
        super().__init__(method, data, sample)
        self.__dict__["network"] = student  # no part of this module: trained and saved elsewhere
        self.__dict__["teacher"] = teacher
        generations = len(self.moved)
        self.register_buffer("bridges", ours.new_zeros(generations, theirs.shape[1], ours.shape[1]))
        # The table that copies began from, which the residual form alone asks for.
        rows = len(ours) if method.bridge == "residual" else 0
        self.register_buffer("words", ours.new_zeros(generations, rows, ours.shape[1]))

    def begin(self, place: int) -> None:
        """Fit Q to both tables as they are now."""
        ours, theirs = self._embeddings()
        everything = torch.arange(len(ours.weight), device=ours.weight.device)
        with torch.no_grad():
            table, its_table = ours(everything), theirs(everything)
        self.bridges[place] = functional.embedding_bridge(table, its_table)
        if self.words.shape[1]:
            self.words[place] = table

    def start(self, batch: Batch) -> Tensor:
        """Return the student's word vectors, ``[batch, tokens, width]``."""
        ours, _ = self._embeddings()
        vectors: Tensor = ours(batch.inputs[IDS])
        return vectors.detach()

    def asked(self, batch: Batch, moved: Tensor, place: int) -> Batch:
        """Return the batch with word vectors for both."""
        ids = batch.inputs[IDS]
        return batch.replace(
            inputs=_with_vectors(batch.inputs, moved),
            teacher_inputs=_with_vectors(batch.inputs, self._carried(moved, ids, place)),
        )

    def store(self, place: int, batch: Batch, moved: Tensor) -> None:
        """Keep the copies; batches are cut to their longest text, what is kept is not."""
        assert batch.index is not None
        self.moved[place][batch.index, : moved.shape[1]] = moved.to(self.moved)

    def joined(self, batch: Batch, places: Iterable[int]) -> Mapping[str, Any]:
        """Return word vectors of the batch, by which the student's table learns, and of copies."""
        ours, theirs = self._embeddings()
        ids = batch.inputs[IDS]
        own, its = [ours(ids)], [theirs(ids).detach()]
        for at in places:
            moved = self.moved[at][batch.index, : ids.shape[1]]
            own.append(moved.to(own[0]))
            its.append(self._carried(moved, ids, at).to(its[0]))
        many = {
            key: torch.cat([value] * len(own)) for key, value in batch.inputs.items() if key != IDS
        }
        return {
            "inputs": {VECTORS: torch.cat(own), **many},
            "teacher_inputs": {VECTORS: torch.cat(its), **many},
        }

    def _carried(self, moved: Tensor, ids: Tensor, place: int) -> Tensor:
        """Return the teacher's word vectors of a moved text."""
        bridge = self.bridges[place].to(moved)
        if cast(Backward, self.method).bridge == "paper":
            return moved @ bridge.T
        _, theirs = self._embeddings()
        gone = moved - self.words[place].to(moved)[ids]
        own: Tensor = theirs(ids).detach()
        return own.to(moved) + gone @ bridge.T

    def _embeddings(self) -> tuple[Any, Any]:
        """The modules that give student and teacher their word vectors."""
        networks = self.__dict__["network"], self.__dict__["teacher"].module
        return tuple(network.get_input_embeddings() for network in networks)


def _with_vectors(inputs: Mapping[str, Tensor], vectors: Tensor) -> dict[str, Tensor]:
    return {VECTORS: vectors, **{key: value for key, value in inputs.items() if key != IDS}}


def _table_of(who: str, network: Any, forward: Any, example: Mapping[str, Tensor]) -> Tensor:
    """Return a network's word vectors ``[tokens, width]``.

    Raises:
        MethodError: it has none that it could be given instead of tokens.
    """
    kind = type(network).__name__ if isinstance(network, nn.Module) else "no network"
    table = None
    if network is not None and is_transformers(network) and forward is None:
        try:
            table = network.get_input_embeddings().weight
        except (AttributeError, NotImplementedError):
            table = None
    if not isinstance(table, Tensor) or table.dim() != 2:
        raise MethodError(
            f"method backward: {who} ({kind}) has no word embeddings that could be moved; texts "
            "need transformers networks, called as model(**inputs)"
        )
    try:
        read = tap_shapes(network, "penultimate", example)
    except TapError:
        read = {}
    if any(len(shape) == 3 for shape in read.values()):
        raise MethodError(
            f"method backward: {who} ({kind}) classifies by a text's last token, which it cannot "
            "tell from word vectors"
        )
    return table
