"""Drop-in classes for langchain: thin translators."""
