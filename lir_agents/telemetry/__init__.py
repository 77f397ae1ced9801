"""Spans and metrics: counts and seconds, never text."""
