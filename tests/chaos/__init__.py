"""The fault run: the real fleet under seeded faults, compared with the same run left in peace."""
