"""The container: tensors and a manifest in one checked file, from front to back.

    whole       encode, decode, stream, inspect, with_manifest: the doors
    writer      a tensor ─► its coder (`tensors`, `parts`) ─► its head (`heads`) ─► a record
    reader      a record ─► head ─► tensor; all of them as they come, or one by name
    records     numbers, records, checksums: the bytes themselves
    manifests   JSON in few bytes, against known `words`

Whatever bytes a stranger wrote are answered with a `FormatError` that names the offset, before
memory is taken for them.
"""
