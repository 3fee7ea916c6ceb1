"""radscale: how much of our own data does it take to beat the open chest X-ray models, and what will more data buy?"""

__version__ = "0.1.0"
