"""CAFE: rank the documents by the attention of retrieval heads (`coarse`), then steer attention to them (`steering`)."""
