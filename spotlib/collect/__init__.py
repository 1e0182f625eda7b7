"""One batch: what is asked of EC2, what it may cost, and how it is watched and recorded.

Read in this order: ``parameters`` (of ``02_collect``, and the targets they name), ``preflight``
(what can be known before money is spent; its questions about the account, images and quotas are in
``account``, ``launch_images`` and ``free_vcpus``), ``cost`` (a plan made ready to send; waves),
``schedule`` (rounds, pauses and polls), ``features`` (what is known of a target before its
request), ``batch`` (the state), ``watch`` (the loop), ``recording`` (the state as events),
``rounds`` (``collect_batch``), ``stopping`` (Ctrl-C as a flag), ``live`` and ``report`` (what the
notebook shows).
"""
