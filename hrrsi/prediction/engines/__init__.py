"""Engines: what runs a network over windows. Each is a file, and imports its runtime by itself."""
