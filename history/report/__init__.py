"""`report.html`: one self-contained page about a run."""

from history.report.page import render

__all__ = ["render"]
