"""Studies: statistics over seeded runs."""
