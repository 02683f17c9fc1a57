"""Verdicts over runs that somebody else made: tables, files, and what trackers keep."""
