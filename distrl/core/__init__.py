"""Ground floor: the types, contracts and files on which environments, actors, learners and the cluster meet."""
