"""The report of an evaluation: files, a table for the terminal, and the paths drawn."""

from service.report.paths import draw_paths, draw_study_paths
from service.report.tables import as_table
from service.report.writing import write_report, write_study_report

__all__ = ["as_table", "draw_paths", "draw_study_paths", "write_report", "write_study_report"]
