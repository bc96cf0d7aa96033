"""Features by path, glob or role; which layers pair; how one space is carried into another."""

from limbeck.taps.averaged import LinearHead, averaged_map, linear_head
from limbeck.taps.hooks import TapStore, tapping
from limbeck.taps.outputs import Outputs, as_outputs
from limbeck.taps.pairing import TapPair, align_stages, pair_taps, tap_shapes
from limbeck.taps.projectors import make_projector
from limbeck.taps.resolve import ResolvedTap, resolve_taps
from limbeck.taps.roles import head_of, infer_roles, roles_of, unwrap
from limbeck.taps.session import TappedModel
from limbeck.taps.splicing import run_from

__all__ = [
    "LinearHead",
    "Outputs",
    "ResolvedTap",
    "TapPair",
    "TapStore",
    "TappedModel",
    "align_stages",
    "as_outputs",
    "averaged_map",
    "head_of",
    "infer_roles",
    "linear_head",
    "make_projector",
    "pair_taps",
    "resolve_taps",
    "roles_of",
    "run_from",
    "tap_shapes",
    "tapping",
    "unwrap",
]
