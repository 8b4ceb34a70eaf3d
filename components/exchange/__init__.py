"""Encoders from other houses, and encoders as other houses open them: state dicts, exported graphs, a model card."""
