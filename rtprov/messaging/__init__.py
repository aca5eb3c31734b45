"""The queues and exchanges of rtprov at the broker, and the format of its messages."""
