"""The commands: what they can be told, what they call, and what they answer."""
