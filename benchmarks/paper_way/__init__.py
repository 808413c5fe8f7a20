"""The paper's way of setting up an emulated worker, as a baseline."""
