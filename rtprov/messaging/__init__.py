"""The queues and exchanges of rtprov at the broker, and the format of its messages.

Also what changes them as a whole: `resharding`, `moving`, `relocation`, `backup`.
"""
