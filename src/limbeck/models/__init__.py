"""Networks by name, what they cost, and how they are kept."""

from limbeck.models.assistant import StudentAssistant
from limbeck.models.bcos import BcosCNN, BcosResNet
from limbeck.models.bcos_layers import BcosConv2d, BcosLinear, explanation_mode
from limbeck.models.cnn import CNN
from limbeck.models.cohort import Cohort
from limbeck.models.cost import count_flops, count_parameters, measure_latency
from limbeck.models.deep_resnet import DeepResNet
from limbeck.models.explaining_mlp import ExplainingMLP
from limbeck.models.explaining_resnet import ExplainingResNet
from limbeck.models.io import load_model, model_spec, read_spec, save_model
from limbeck.models.mixer import Mixer
from limbeck.models.mlp import MLP
from limbeck.models.mobilenetv2 import MobileNetV2
from limbeck.models.registry import build_model, model_arguments, model_names, register_model
from limbeck.models.resnet import CifarResNet
from limbeck.models.shared_widths import SharedWidths, parts_of
from limbeck.models.shufflenetv1 import ShuffleNetV1
from limbeck.models.shufflenetv2 import ShuffleNetV2
from limbeck.models.vgg import VGG
from limbeck.models.vit import ViT
from limbeck.models.wrn import WideResNet

__all__ = [
    "CNN",
    "MLP",
    "VGG",
    "BcosCNN",
    "BcosConv2d",
    "BcosLinear",
    "BcosResNet",
    "CifarResNet",
    "Cohort",
    "DeepResNet",
    "ExplainingMLP",
    "ExplainingResNet",
    "Mixer",
    "MobileNetV2",
    "SharedWidths",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "StudentAssistant",
    "ViT",
    "WideResNet",
    "build_model",
    "count_flops",
    "count_parameters",
    "explanation_mode",
    "load_model",
    "measure_latency",
    "model_arguments",
    "model_names",
    "model_spec",
    "parts_of",
    "read_spec",
    "register_model",
    "save_model",
]
