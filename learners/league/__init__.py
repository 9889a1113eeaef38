"""Self-play leagues: who plays whom, what came of it, which policies are kept as opponents.

Numpy and files alone: no Ray, no torch. What distrl's learner calls is ``league``; the rest are its parts.

config        the options, with their bounds
league        the learner's side: matches and updates in; snapshots, resets and tables of opponents out
payoffs       the ledger of matches: a file for each writer, counts for the readers
players       who is in the league: policies that learn, and their snapshots on disk
matchmaking   from win rates to probabilities of opponents: pure functions, each with its source
meta_solver   equilibria of the empirical game: Nash, risk-averse; how far a mixture is from one
ratings       Elo with standard errors, by maximum likelihood
exact         of tic-tac-toe, by full tree search: NashConv of a policy, a perfect player
"""
