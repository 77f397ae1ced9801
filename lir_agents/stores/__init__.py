"""What is on disk, one third-party library per file."""
