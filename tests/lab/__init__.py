"""A network laboratory: namespaces, real nodes of three kinds, and own tools to ping, trace and load them.

Shared by the tests in namespaces, the benchmarks and the demonstration. Needs no system program but `ip`.
"""
