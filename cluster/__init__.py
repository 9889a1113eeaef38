"""The wiring of a run, on Ray or in one process: the one room that knows the others, and the only one with Ray in it.

components                    the parts of a run, built from its configuration
local                         all of them in one process, without Ray
launch                        the driver's side of a run on Ray
supervisor, ray_actors        who starts, watches and restarts; the parts as Ray actors
tune_pool                     how a run's environments are best hosted on this machine: pool_trials measure, pool_choice
                              decides
recorder                      the run directory's metrics, timing and events
"""
