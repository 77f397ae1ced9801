"""Datasets, metrics, experiments."""
