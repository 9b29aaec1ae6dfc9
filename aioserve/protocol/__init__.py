"""Decides: what a request asks for and what the answer is. Pure: no await, no open, no clock, no log."""
