"""Limbeck's methods in loops that are not its own: transformers, Lightning, plain torch.

``limbeck.integrations.transformers`` and ``limbeck.integrations.lightning`` need those packages and
are imported on their own.
"""

from limbeck.integrations.distillation import Distillation
from limbeck.integrations.indexed import IndexedDataset

__all__ = ["Distillation", "IndexedDataset"]
