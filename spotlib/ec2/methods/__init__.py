"""How to launch, one file per method: read ``method`` first, then any of them and ``registry``.

``launch`` and ``fleet`` are what several of them share.
"""
