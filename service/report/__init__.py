"""The report of a study: files, a table for the terminal, and the paths drawn."""

from service.report.paths import draw_study_paths
from service.report.terminal import as_table
from service.report.writing import write_study_report

__all__ = ["as_table", "draw_study_paths", "write_study_report"]
