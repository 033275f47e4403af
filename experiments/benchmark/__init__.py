"""The same training in flaxnets and in its peers, timed side by side."""
