"""The XGBoost agent."""
