"""Sources to versioned passages: load, normalise, redact, split, commit."""
