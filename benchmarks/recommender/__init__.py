"""Quality, ablations, speed and size of the recommender."""
