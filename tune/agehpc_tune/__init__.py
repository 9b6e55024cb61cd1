"""Hyper-parameter search over agehpc runs."""
