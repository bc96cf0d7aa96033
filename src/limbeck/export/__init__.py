"""The way out: a trained student as a file for other runtimes, checked against itself."""

from limbeck.export.hub import hub_api, push_folder
from limbeck.export.running import FORMATS, Exported, export_run, export_student

__all__ = ["FORMATS", "Exported", "export_run", "export_student", "hub_api", "push_folder"]
