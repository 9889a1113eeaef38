"""RLlib and distrl side by side: its algorithms over our pools, its modules under our PPO, its runs as a baseline."""
