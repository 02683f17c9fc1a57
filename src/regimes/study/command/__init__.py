"""Somebody's script as a workload: it stays their script."""

from regimes.study.command.workload import Command

__all__ = ["Command"]
