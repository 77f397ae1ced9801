"""The LangGraph wiring. The order of the steps stands here and nowhere else."""
