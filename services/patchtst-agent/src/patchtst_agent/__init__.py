"""The PatchTST agent."""
