"""Algorithms, networks, policies, replay, queue and the learner loop.

Nothing is imported here: env workers load policies without torch, the command line loads ``registry`` without it.

registry                     an algorithm's name in, its validated options out
sac_config, sac, networks    soft actor-critic: tensors in, gradients out, and applied
policies                     what env workers act with for it, in numpy alone
ppo_config, ppo              PPO, APPO and IMPALA: one algorithm, three sets of defaults
returns, moments             pure operators: GAE and V-trace; running means, and the scale of rewards
actor_critic, distributions  networks and action distributions with their gradients written out
optimizer                    steps of the vectors that training changes: Adam, and the lag of target networks
together                     several learners in step: the mean of their gradients
parameter_shards             the other side of sharded_optimizer: parts of the vectors, and whose gradients they take
shared_network, images       the same with memory, and for images, by autograd; image_layers: their shapes
actor_policies, inputs       what env workers act with, in numpy alone; from observations to a network's inputs
replay                       the ring of transitions, n-step returns, accounting of what was sampled
rollout, queue               on-policy fragments side by side, each transition handed out once
trainer, learner             one policy's updates; the loop over all: secure, insert, publish, checkpoint, restore
ga, lineages, lineage_policy the genetic algorithm: lists of seeds as individuals; whole_episodes, episode_queue: theirs
qmix, mixing, team_policies  VDN and QMIX, for teams as one row
league                       who meets whom in self-play, and what came of it
randomness, spaces           generators by update index; the layout of observations and actions
bench, bench_on_policy       what the learner alone takes: python -m distrl.learners.bench, …bench_on_policy
"""
