"""The fast forms of the hot equations: fused, in blocks, compiled; torch alone.

``limbeck.functional`` takes them by itself where logits are large (``choice``).
"""

from limbeck.kernels.choice import fastest, form_for
from limbeck.kernels.dense import Divergence, Kind
from limbeck.kernels.gradients import Work, value_of
from limbeck.kernels.sparse import SparseDivergence

__all__ = ["Divergence", "Kind", "SparseDivergence", "Work", "fastest", "form_for", "value_of"]
