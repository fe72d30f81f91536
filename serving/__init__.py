"""Reading the published snapshot; knows neither dbt nor Dagster.

`LmsWarehouse` is the public Python API (docs/python.md).
"""

from serving.warehouse import LmsWarehouse

__all__ = ["LmsWarehouse"]
