"""What the workers of a training do, and what they leave."""
