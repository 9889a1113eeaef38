"""Environments that drive an external solver, process by process."""
