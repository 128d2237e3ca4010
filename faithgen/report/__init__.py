"""What people look at: the report of an answer as one HTML file, and plots, in one look for light and dark."""

from faithgen.report.answer import render_report, write_report

__all__ = ["render_report", "write_report"]
