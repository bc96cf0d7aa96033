"""Checks that methods and teachers of any origin must pass; public, so that others can use them."""

from limbeck.testing.check_method import MethodReport, check_method
from limbeck.testing.check_teacher import check_teacher

__all__ = ["MethodReport", "check_method", "check_teacher"]
