"""Flow-control environments on the embedded lattice Boltzmann solver: one file per term of the equations.

``lattice`` (fluid), ``boundaries`` (its edges), ``immersed_boundary`` (marker forces), ``beam`` (the structure),
``fluid`` and ``bodies`` (what a flow is made of), ``coupling`` (one time step of all of them), ``team`` (on several
cores), ``scene`` (all that as one object), ``limits`` (what it takes), ``picture`` (fields to rgb). Environments:
``fin_ray``, ``tandem_fins``, ``cylinder_rotation``, ``cylinder_jets``, ``pinball``; ``sinusoid`` is the fins' open-loop
baseline.
"""
