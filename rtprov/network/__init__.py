"""Opening connections: hosts, name look-ups, one deadline for each phase, and the PROXY
protocol.
"""
