"""What was recorded: how long launches took, how sure that is, and which targets differ.

Owns every estimate from brackets and every table, figure and sentence of ``03_analyze``.  It
reads tables of launches and polls, never EC2, and writes no file.  Read it in this order:

1. ``comparable``: what is an observation, what competes, what is censored, what may be pooled
2. ``load``: the newest comparable launches, and what was left out
3. ``curve``, ``turnbull``, ``lognormal``, ``intervals``: the mathematics, which know nothing of EC2
4. ``launch_times``: the distribution of the times to a stage, per target
5. ``summaries``, ``compare``, ``selectors``, ``checks``: tables made from these distributions
6. ``sentences``, ``figures``, and of comparisons ``comparison_sentences``, ``comparison_figures``:
   how the notebook says and shows them; ``parameters``: its parameters
"""
