"""The teacher cache: answers about training samples, kept once, verified, read again."""

from limbeck.teachers.cache.codec import Codec
from limbeck.teachers.cache.info import explain
from limbeck.teachers.cache.manifest import Manifest, read_manifest
from limbeck.teachers.cache.reader import verify
from limbeck.teachers.cache.teacher import CachedTeacher, refuse_nothing_to_save

__all__ = [
    "CachedTeacher",
    "Codec",
    "Manifest",
    "explain",
    "read_manifest",
    "refuse_nothing_to_save",
    "verify",
]
