"""The archive: topics to Parquet files, whole and verified, in a folder or a bucket. What a part file is stands in
`streams/parts.py`, how one is read again in `streams/history.py`, where files are kept in `infra/store.py`.
"""
