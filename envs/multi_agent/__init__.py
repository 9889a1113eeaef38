"""Environments of several agents: what hosts drive, and adapters from PettingZoo's and RLlib's forms to it."""
