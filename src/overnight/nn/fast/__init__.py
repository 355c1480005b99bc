"""Fast twins of the readable recurrence. Chosen at run time, never required."""
