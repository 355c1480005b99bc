"""Ratings of items by users: read from many formats, split, and drawn in batches of users."""

from overnight.data.ratings.ids import Ids
from overnight.data.ratings.loading import load_ratings, split_table
from overnight.data.ratings.settings import RatingSettings
from overnight.data.ratings.table import RatingMatrix, RatingSplits, RatingTable

__all__ = ["Ids", "RatingMatrix", "RatingSettings", "RatingSplits", "RatingTable", "load_ratings", "split_table"]
