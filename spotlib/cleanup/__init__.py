"""Leave nothing behind: cancel, terminate and confirm, also after a crash.  It launches nothing.

Read in this order: ``close`` (release a plan, settle a batch), ``unfinished`` (what the logs say is
not confirmed clean), ``recovery`` (the events that a dead writer did not write), ``sweep`` (close
dead batches and complete their logs), ``guard`` (the process that sweeps when its collector dies).
"""
