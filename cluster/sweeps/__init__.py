"""Many runs that differ in some keys: Ray Tune draws values, each trial is a run of its own in the sweep's folder."""
