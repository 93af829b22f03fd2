"""SciPy, PyTorch and scikit-learn as softbench backends; each adapter declares how it deviates from the contract."""
