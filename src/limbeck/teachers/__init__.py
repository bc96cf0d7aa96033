"""Teachers: anything that says something about a batch."""

from limbeck.teachers.base import Teacher
from limbeck.teachers.black_box import BlackBoxTeacher
from limbeck.teachers.cache import CachedTeacher
from limbeck.teachers.calibrated import CalibratedTeacher
from limbeck.teachers.choose import as_teacher, as_teachers
from limbeck.teachers.crossfit import CrossFitTeacher, cross_fit
from limbeck.teachers.ema import EmaTeacher
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.live import LiveTeacher
from limbeck.teachers.online import OnlineTeacher
from limbeck.teachers.onnx import OnnxTeacher
from limbeck.teachers.partial import PartialTeacher
from limbeck.teachers.peers import PeersTeacher
from limbeck.teachers.route import RouteTeacher
from limbeck.teachers.sklearn_fit import fit_sklearn
from limbeck.teachers.snapshot import SnapshotTeacher
from limbeck.teachers.virtual import VirtualTeacher
from limbeck.teachers.visits import Visits

__all__ = [
    "BlackBoxTeacher",
    "CachedTeacher",
    "CalibratedTeacher",
    "CrossFitTeacher",
    "EmaTeacher",
    "EnsembleTeacher",
    "LiveTeacher",
    "OnlineTeacher",
    "OnnxTeacher",
    "PartialTeacher",
    "PeersTeacher",
    "RouteTeacher",
    "SnapshotTeacher",
    "Teacher",
    "VirtualTeacher",
    "Visits",
    "as_teacher",
    "as_teachers",
    "cross_fit",
    "fit_sklearn",
]
