"""What scores are made of: average precision, intersection over union, rankings, and their statistics."""
