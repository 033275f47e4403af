"""Figures, pages and terminal output that show what a run did."""
