"""The dashboards: one view of the fleet, as a web page, as text and as JSON."""
