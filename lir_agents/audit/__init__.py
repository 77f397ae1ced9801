"""The immutable event log: append, prove, verify, export."""
