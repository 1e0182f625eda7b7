"""Calls to EC2: one attempt per call, on an injected clock.  Nothing here knows of batches.

Read in this order: ``clock`` (the machine's time and a pretend market's), ``refusals`` (what an
error means and what to do), ``places`` (what is Amazon's, and its partitions), ``credentials``
(whose they are, and until when they last), ``caller`` (what every caller of EC2 offers),
``connection`` (the one place where a call is made), ``endpoints`` (``connect``), ``poll`` (what is
watched), ``resource`` (what a launch leaves, and a file for each kind of it), ``survey`` (all kinds
at once), ``methods/`` (how to launch, one file per method), ``policy`` (what they may need).
"""
