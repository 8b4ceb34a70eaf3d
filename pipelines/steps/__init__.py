"""Steps of a workflow: what they are, how they run side by side, and how they are reused."""
