"""SEBOOST's own experiments, with what they had left out: schedules, equal gradient evaluations, equal time, rates."""
