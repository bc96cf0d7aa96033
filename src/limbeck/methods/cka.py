"""CKA: the student's layer should see the samples of a batch as the teacher's does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from limbeck import functional
from limbeck.methods.base import Terms
from limbeck.methods.card import Card, Paper
from limbeck.methods.coupled import Coupled
from limbeck.methods.registry import register_method


@register_method("cka")
@dataclass(frozen=True, kw_only=True)
class CKA(Coupled):
    r"""Centered kernel alignment (Kornblith et al. 2019) as a loss.

    .. math:: 1 - \frac{\langle K_S, K_T \rangle}{\| K_S \| \, \| K_T \|}, \quad
              K = H F F^\top H

    K are the inner products of a layer's samples, centred by H. The measure is the paper's, for
    comparing networks; to train by its distance from 1, the weight and the layers are ours. Layers
    of any form and width compare, without adapters. Scaling, rotating or moving either layer
    changes nothing.

    Helps where student and teacher differ in kind. Says little in small batches, where layers with
    many entries look alike: about as many samples as the batch allows.

    Args:
        weight: weight of the term (1, beside a task weight of 1).
        pairs: "auto" compares the last stages; "cka" pairs the stages by this measure; a tap of the
            same name in both; or pairs ``((student tap, teacher tap), …)``, which add up.
    """

    weight: float = 1.0
    pairs: str | tuple[Any, ...] = "auto"

    card: ClassVar[Card] = Card(
        title="CKA",
        paper=Paper(
            authors="Kornblith, Norouzi, Lee, Hinton",
            year=2019,
            title="Similarity of Neural Network Representations Revisited",
            venue="ICML 2019",
            arxiv="1905.00414",
        ),
        equation="1 - <K_S, K_T> / (‖K_S‖ ‖K_T‖), K = H F Fᵀ H",
        faithful="faithful in part",
        knowledge=("feature", "relation"),
        location=("intermediate",),
        transfer="distance of centered kernel alignment from 1",
        tasks=("classification", "multilabel", "regression"),
        min_classes=1,
        teacher_access="features",
        supervision="no labels",
        separable=False,
    )

    def relate(self, student: Tensor, teacher: Tensor) -> Terms:
        """Return ``{"cka": scalar}``; 0 for a single sample, which has nothing to be compared with.

        A layer that is the same for all samples is no like of any: the term is 1.
        """
        value = functional.cka(student, teacher)
        return {"cka": 1 - value if len(student) > 1 else 0 * value}
