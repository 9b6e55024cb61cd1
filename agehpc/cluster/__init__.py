"""Ranks, process groups, collectives and the stop signal."""
