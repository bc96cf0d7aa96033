"""Networks by name, what they cost, and how they are kept."""

from limbeck.models.cnn import CNN
from limbeck.models.cohort import Cohort
from limbeck.models.cost import count_flops, count_parameters, measure_latency
from limbeck.models.io import load_model, model_spec, read_spec, save_model
from limbeck.models.mlp import MLP
from limbeck.models.registry import build_model, model_arguments, model_names, register_model
from limbeck.models.resnet import CifarResNet
from limbeck.models.vit import ViT

__all__ = [
    "CNN",
    "MLP",
    "CifarResNet",
    "Cohort",
    "ViT",
    "build_model",
    "count_flops",
    "count_parameters",
    "load_model",
    "measure_latency",
    "model_arguments",
    "model_names",
    "model_spec",
    "read_spec",
    "register_model",
    "save_model",
]
