"""One batch: what is asked of EC2, what it may cost, and how it is watched and recorded.

Read in this order:

==========  =======================================================================
parameters  the parameters of ``02_collect``, and the targets that they name
preflight   what can be known before money is spent
cost        a plan made ready to send, its expected and its highest cost, its waves
features    what is known of a target just before its request
batch       the state of a running batch
watch       the loop: send, poll, end
recording   the loop's states as events of the log
rounds      ``collect_batch``: rounds of waves, and an end that leaves nothing behind
stopping    Ctrl-C and signals as a flag
live        the live view and the figure of the ready counts
report      the notebook's tables
==========  =======================================================================
"""
