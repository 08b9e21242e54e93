"""The etcd-compatible server: settings, assembly, start and stop.

The only package that picks concrete parts: a disk for the log, TCP between the members, LMDB for the keys,
gRPC for the clients. `config` reads and checks the settings, `server` builds and runs one member,
`processes` runs several as real processes (for the demo, the benchmarks and the tests).
"""
