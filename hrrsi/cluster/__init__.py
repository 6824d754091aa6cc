"""Maps and scores by the workers of a Dask cluster, in the same bytes as by one process."""
