"""Data: raw samples in memory, views over them, augmentation that can be replayed, splits."""

from limbeck.data.augment import Augment
from limbeck.data.batch import IGNORE, Batch, Draw, has_label
from limbeck.data.bundle import DataBundle, bundle_from
from limbeck.data.datasets import DatasetSamples, as_samples
from limbeck.data.geometry import GeometricParameters, apply_geometric
from limbeck.data.loader import batches, eval_batches, steps_per_epoch
from limbeck.data.normalize import Normalize, renormalize
from limbeck.data.registry import data_names, data_options, load_data, register_data
from limbeck.data.samples import ConcatSamples, Samples, TensorSamples, targets_of
from limbeck.data.seeds import (
    counter_integers,
    counter_uniform,
    mix,
    permutation,
    seed_everything_for_step,
)
from limbeck.data.sources.hf_columns import from_hf
from limbeck.data.splits import Splits, make_splits
from limbeck.data.view import View

__all__ = [
    "IGNORE",
    "Augment",
    "Batch",
    "ConcatSamples",
    "DataBundle",
    "DatasetSamples",
    "Draw",
    "GeometricParameters",
    "Normalize",
    "Samples",
    "Splits",
    "TensorSamples",
    "View",
    "apply_geometric",
    "as_samples",
    "batches",
    "bundle_from",
    "counter_integers",
    "counter_uniform",
    "data_names",
    "data_options",
    "eval_batches",
    "from_hf",
    "has_label",
    "load_data",
    "make_splits",
    "mix",
    "permutation",
    "register_data",
    "renormalize",
    "seed_everything_for_step",
    "steps_per_epoch",
    "targets_of",
]
