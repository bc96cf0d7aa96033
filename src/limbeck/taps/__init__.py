"""Features by path, glob or role; which layers pair; how one space is carried into another."""

from limbeck.taps.hooks import TapStore, tapping
from limbeck.taps.outputs import Outputs, as_outputs
from limbeck.taps.pairing import TapPair, align_stages, pair_taps, tap_shapes
from limbeck.taps.projectors import make_projector
from limbeck.taps.resolve import ResolvedTap, resolve_taps
from limbeck.taps.roles import head_of, infer_roles, roles_of, unwrap
from limbeck.taps.session import TappedModel

__all__ = [
    "Outputs",
    "ResolvedTap",
    "TapPair",
    "TapStore",
    "TappedModel",
    "align_stages",
    "as_outputs",
    "head_of",
    "infer_roles",
    "make_projector",
    "pair_taps",
    "resolve_taps",
    "roles_of",
    "tap_shapes",
    "tapping",
    "unwrap",
]
