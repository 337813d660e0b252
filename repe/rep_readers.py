"""The readers under the name that the released downloads (`reader_dict.pk`) refer to."""

from repe.vectors.readers import ClusterMeanRepReader, PCARepReader, RandomRepReader, RepReader

__all__ = ["ClusterMeanRepReader", "PCARepReader", "RandomRepReader", "RepReader"]
