"""The N-HiTS agent."""
