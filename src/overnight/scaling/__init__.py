"""Batch B₀ → k·B₀: rules and measurements."""
