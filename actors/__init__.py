"""Where environments live: pools, the env worker's loop over a pool, fragments, the evaluator. No torch, no Ray here.

process_pool, inline_pool     environments behind one contract: recv what is ready, send actions
row_processes, row_sockets,   what a process pool is made of: starting, hearing, watching and restarting processes,
fork_server,                  where they come from,
environment_process,          the loop inside one of them,
shared_rows                   and the shared memory between
recovery, snapshots           what happens after a failure, and the files from which an episode goes on
hang_limit, out_of_memory     how a hang and a shortage of memory are told
env_worker, policy_stream     the loop over any pool, and each policy's part of it
inference, inference_server   what chooses actions: the worker's own copy of a policy, a thread, a server
agent_rows, seating           environments of several agents taken apart; in a league, who acts for whom
fragment_builder              steps in, fragments out
evaluator                     deterministic episodes on fixed seeds
"""
