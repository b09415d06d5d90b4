"""Images in shards: tar or Parquet files of many images each, here or at an address."""
