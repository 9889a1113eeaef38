"""Control of cheap nonlinear dynamics, one file and one class each; docs/dynamics.md.

``kuramoto_sivashinsky``, ``lorenz``, ``burgers``, ``shkadov_film``, ``rayleigh_benard`` (the Gymnasium environments),
``convection`` (one time step of the Boussinesq equations), ``upwind`` (a derivative that several share), ``feedback``
(the proportional baseline), ``picture`` (curves and fields to rgb).
"""
