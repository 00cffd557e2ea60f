"""The demo: a whole training, evaluated and pictured, from data that comes with the package."""

from nexus.demo.run import DemoResult, run_demo
from nexus.demo.source import demo_data

__all__ = ["DemoResult", "demo_data", "run_demo"]
