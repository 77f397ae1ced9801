"""From source to versioned passages: load, normalise, redact, split, commit.

`files` and `adapters` turn what people have into documents, `split` cuts them along their own structure,
`pipeline` writes them so that a reader sees a document whole or not at all, and `reconcile` mends what a crash
left behind.
"""
