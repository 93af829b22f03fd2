"""Studies of the backends for those who work on them: ``python -m benchmarks.studies`` lists them.

Not part of the asv suite, which imports these modules all the same: whatever not everybody has is imported late.
"""
