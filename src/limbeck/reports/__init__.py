"""Reports: what runs came to, as one HTML page, tables and plots, from run folders alone."""

from limbeck.reports.comparison import comparison_table
from limbeck.reports.html import write_report
from limbeck.reports.reading import RunRecord, read_run, read_runs
from limbeck.reports.tables import Table

__all__ = ["RunRecord", "Table", "comparison_table", "read_run", "read_runs", "write_report"]
