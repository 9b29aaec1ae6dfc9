"""Moves: accepts connections, reads requests, sends what was planned. Decides nothing."""
