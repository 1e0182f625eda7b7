"""Leave nothing behind: cancel, terminate and confirm, also after a crash.  It launches nothing.

Read in this order: ``close`` (release a plan, settle a batch), ``unfinished`` (what the logs say is
not confirmed clean), ``recovery`` (the events that a dead writer did not write), ``one_batch``
(close a dead batch and complete its log), ``search`` (what EC2 lists of them), ``sweep`` (close all
of them), ``guard`` (the process that sweeps when its collector dies).
"""
