"""Algorithms, networks, policies, replay and the learner loop.

Nothing is imported here: env workers load ``policies`` without torch, the command line loads ``registry`` without it.
"""
