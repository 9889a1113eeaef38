"""Environments and helpers that tests of several rooms use."""
