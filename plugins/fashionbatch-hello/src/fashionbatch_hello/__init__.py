"""The smallest complete plugin for fashionbatch: one component of each kind.

Copy the folder, rename it, and throw away what you do not need.
"""

__version__ = "0.1.0"
