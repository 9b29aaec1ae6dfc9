"""Looks: finds what a target names on the disk and turns it into a Plan. Knows no socket."""
