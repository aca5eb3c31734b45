"""``rtprov doctor``: finds mistakes in a set-up, and says what to do about each.

`rtprov.cli.doctor.files` looks at certificates, keys and tokens, `surroundings` at the process and
its machine, `connections` at service B, the broker and service A.
"""
