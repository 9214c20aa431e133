"""Many images on many machines: what is where, who does it, and what became of each.

Ray distributes the work and pyarrow opens object stores; both come with the extra `cluster` and are
imported where they are used.
"""
