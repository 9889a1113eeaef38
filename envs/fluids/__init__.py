"""Flow-control environments on the embedded lattice Boltzmann solver: one file per term of the equations.

``lattice`` (fluid), ``boundaries`` (its edges), ``immersed_boundary`` (marker forces), ``beam`` (the structure),
``scene`` (one time step of all of them), ``fin_ray`` (the Gymnasium environment), ``flow_pool`` (developed flows on
disk),
``sinusoid`` (the open-loop baseline), ``picture`` (fields to rgb).
"""
