"""The answer page of a study: words, figures and tables, all computed from the analysis tables.

Reads result records only; may import matplotlib, jinja2 and `radscale.errors`, never a stage or a model.
"""

from radscale.html_report.page import ReportInputs, write_report

__all__ = ["ReportInputs", "write_report"]
