"""Edges: the venue."""
