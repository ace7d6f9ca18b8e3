"""Models that methods are plugged into."""
