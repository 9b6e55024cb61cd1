"""Figures about a model."""
