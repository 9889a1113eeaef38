"""Algorithms, networks, policies, replay and the learner loop.

Nothing is imported here: env workers load ``policies`` without torch, the command line loads ``registry`` without it.

registry, sac_config    an algorithm's name in, its validated options out
sac, networks           soft actor-critic: tensors in, gradients out, and applied
policies                what env workers act with, in numpy alone
replay                  the ring of transitions, n-step returns, accounting of what was sampled
learner                 the loop: secure, insert, update, publish, checkpoint, restore
randomness, spaces      generators by update index; the layout of observations and actions
bench                   updates per second of the learner alone: python -m distrl.learners.bench
"""
