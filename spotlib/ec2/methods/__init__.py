"""How to launch, one file per method: read ``method`` first, then any of them and ``registry``."""
