"""How we speak to EC2: one attempt per call, on an injected clock.  Nothing here knows of batches.

Read in this order: ``clock`` (the machine's time and a pretend market's), ``refusals`` (what an
error means and what to do), ``places`` (what is Amazon's, and its partitions), ``credentials``
(whose they are, and until when they last), ``caller`` (what every caller of EC2 offers),
``connection`` (``connect``, and the one place where a call is made), ``methods/`` (how to launch),
``calls`` (poll, tag, cancel, terminate), ``survey`` (what is left).
"""
