"""What this conversation and its tools have said: recall, remember, forget."""
