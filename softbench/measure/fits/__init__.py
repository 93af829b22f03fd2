"""Fits of softmax regression: how long every solver takes to come how near to the minimum (``--suite regression``)."""
