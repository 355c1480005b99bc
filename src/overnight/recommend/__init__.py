"""A trained recommender in use: an estimator to fit, ask, save and load."""
