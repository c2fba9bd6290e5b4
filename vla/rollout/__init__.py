"""Playing episodes: requests, actors, and the records that come of them."""
