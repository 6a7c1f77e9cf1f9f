"""The report of an evaluation: files, a table for the terminal, and figures of paths."""

from service.report.figures.paths import draw_paths
from service.report.terminal import as_table
from service.report.writing import write_evaluation_report

__all__ = ["as_table", "draw_paths", "write_evaluation_report"]
