"""The version, apart, so that any module can know it."""

__version__ = "0.1.0.dev0"
