"""How to launch: one file per launch method, each with what it sends and what the answer means."""
