"""The LightGBM agent."""
