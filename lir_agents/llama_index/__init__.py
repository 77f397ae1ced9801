"""Drop-in classes for llama index: thin translators."""
