"""How many of n instances will be ready: the training table, the models, the forecast, its scores.

Read in this order: ``training`` (launches as tables, and the data dictionary), ``models`` (the
share ready over time), ``unknown`` (features left out), ``forecast`` (the distribution of the ready
count), ``decide`` (what to request), ``score`` (how good a forecast is), ``figures``.
"""
